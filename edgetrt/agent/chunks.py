"""Lets the thread of updates fetch over the agent's own connection to the broker.

An own connection would need an own identity: at a site's broker a session belongs to the certificate.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from edgetrt import wire
from edgetrt.errors import NotConnectedError, TransportError
from edgetrt.types import Exchange

if TYPE_CHECKING:
    from edgetrt.ports import Message, Transport
    from edgetrt.update.line import Failed, Line


class Chunks:
    """Requests out, chunks in; made in the event loop, which waits for none of it.

    Args:
        device: its name.
        transport: the connection to the broker.
        line: to the thread of updates.
    """

    def __init__(self, device: str, transport: Transport, line: Line) -> None:
        self._topic, self._answer_to = wire.fetch(device), wire.chunk(device)
        self._transport, self._line = transport, line
        self._loop = asyncio.get_running_loop()
        line.connect(self._from_thread)

    def take(self, message: Message) -> None:
        """Hand a chunk over; one that nobody waits for is dropped."""
        self._line.take(message.exchange.correlation, message.payload)

    def _from_thread(self, payload: bytes, correlation: bytes, failed: Failed) -> None:
        try:
            self._loop.call_soon_threadsafe(self._send, payload, correlation, failed)
        except RuntimeError:  # the loop is closed
            failed(NotConnectedError("the agent stops"))

    def _send(self, payload: bytes, correlation: bytes, failed: Failed) -> None:
        try:
            self._transport.post(
                self._topic,
                payload,
                partial(_told, failed),
                expiry_s=wire.EXPIRY_S["fetch"],
                exchange=Exchange(self._answer_to, correlation),
            )
        except TransportError as error:
            failed(error)


def _told(failed: Failed, error: TransportError | None) -> None:
    if error is not None:
        failed(error)
