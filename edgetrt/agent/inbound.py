"""What the broker delivers: looked at, handed to who deals with it, or refused and counted.

Whatever bytes arrive, the agent goes on. A message is acknowledged when it was dealt with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from edgetrt import wire
from edgetrt.errors import EdgetrtError, MessageError

if TYPE_CHECKING:
    from edgetrt.ports import Message, Transport

_log = logging.getLogger(__name__)

MOST_BYTES = {
    "desired": 64 * 1024,
    "cmd": 16 * 1024,
    "announce": 4 * 1024,
    "status": 4 * 1024,
    "chunk": 3 * wire.MOST_CHUNK_BYTES // 2,
}
"""Of a message, by the name of its topic."""

Handler = Callable[["Message"], None]
"""Deals with a message at once, or takes note of it; raises EdgetrtError when it is refused."""


class Inbound:
    """The one place where messages from the broker come in.

    Args:
        device: its name.
        transport: where they come from.
        handlers: by the topic's name in the table; what nobody handles is refused.

    Attributes:
        refused: messages that nobody took.
    """

    def __init__(self, device: str, transport: Transport, handlers: Mapping[str, Handler]) -> None:
        self.refused = 0
        self._device = device
        self._transport = transport
        self._handlers = handlers

    async def run(self) -> None:
        """Take messages until cancelled."""
        async for message in self._transport.messages():
            self.take(message)

    def take(self, message: Message) -> None:
        """Deal with one message; never raises."""
        try:
            self._handler(message)(message)
        except EdgetrtError as error:
            self._refuse(message, error.message)
        except Exception as error:  # noqa: BLE001 - it would come again after a restart, and end that
            _log.debug("a message on %s", message.topic, exc_info=True)
            self._refuse(message, f"internal error: {type(error).__name__}: {error}")

    def _handler(self, message: Message) -> Handler:
        address = wire.parse(message.topic)
        name = address.topic.name
        meant = address.topic.direction == "down" or name == "status"
        if not meant or address.device not in ("", self._device):
            raise MessageError(f"{message.topic}: not for {self._device}")
        if len(message.payload) > MOST_BYTES[name]:
            raise MessageError(f"{len(message.payload)} bytes, at most {MOST_BYTES[name]} are read")
        if name not in self._handlers:
            raise MessageError(f"{name}: this device takes none")
        return self._handlers[name]

    def _refuse(self, message: Message, why: str) -> None:
        self.refused += 1
        level = logging.WARNING if self.refused == 1 else logging.DEBUG
        _log.log(level, "refused a message on %s: %s", message.topic[:200], why)
