"""The agent as a process: signals in, exit code out."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgetrt.agent.agent import Agent
from edgetrt.agent.identity import Identity, identify
from edgetrt.agent.session import last_will
from edgetrt.link import Receiver

if TYPE_CHECKING:
    from edgetrt.config import DeviceConfig
    from edgetrt.ports import Transport

Connect = Callable[[str, Callable[[], tuple[str, bytes]]], "Transport"]
"""Makes the transport from the client id and the last will; `partial(MqttTransport, config.broker)`."""


def run_agent(config: DeviceConfig, link_path: Path, connect: Connect) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Args:
        config: this device.
        link_path: the socket that runtimes send to.
        connect: makes the transport.

    Raises:
        ConfigError: no usable device name, or a file of `broker` cannot be read.
        TransportError: `link_path` cannot be bound, or another agent serves it.
    """
    identity = identify(config)
    transport = connect(identity.device, lambda: last_will(identity, time.time()))
    with Receiver(link_path) as receiver:
        asyncio.run(_serve(config, identity, transport, receiver))
    return 0


async def _serve(
    config: DeviceConfig, identity: Identity, transport: Transport, receiver: Receiver
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Agent(identity, config.publish, transport, receiver).run(stop)
