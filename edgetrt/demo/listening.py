"""A demo's own connection: it sees what the device publishes, as anybody else would."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from edgetrt import wire
from edgetrt.config import BrokerConfig
from edgetrt.mqtt import MqttTransport


@contextlib.asynccontextmanager
async def listening(
    broker: BrokerConfig,
    client: str,
    device: str,
    take: Callable[[str, bytes], None],
    within_s: float,
) -> AsyncIterator[MqttTransport]:
    """Hand every message of a device to `take`, topic and payload, until the block ends.

    Raises:
        NotConnectedError: the broker was not reached in time.
    """
    transport = MqttTransport(broker, client, subscriptions=(wire.everything_from(device),))

    async def listen() -> None:
        async for message in transport.messages():
            take(message.topic, message.payload)

    async with transport:
        listener = asyncio.create_task(listen())
        try:
            await transport.reach(within_s)
            yield transport
        finally:
            listener.cancel()
            await asyncio.wait([listener])
