"""The life of the device on the broker: last will, birth, goodbye."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edgetrt import wire
from edgetrt.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetrt.agent.identity import Identity
    from edgetrt.ports import Transport

_log = logging.getLogger(__name__)


def status(identity: Identity, online: bool, reason: str, time_s: float) -> tuple[str, bytes]:
    """Topic and payload of a status."""
    message = wire.StatusMessage(
        device=identity.device,
        online=online,
        epoch=identity.epoch,
        time=round(time_s, 3),
        version=identity.version,
        reason=reason,
    )
    return wire.status(identity.device), wire.encode(message)


def last_will(identity: Identity, time_s: float) -> tuple[str, bytes]:
    """What the broker says for us when the connection breaks."""
    return status(identity, False, "lost", time_s)


class Session:
    """Announces the device on every connection.

    Args:
        identity: who.
        transport: over what.
        wall: seconds since 1970.
        on_online: called after each announcement.

    Attributes:
        reconnects: connections after the first.
    """

    def __init__(
        self,
        identity: Identity,
        transport: Transport,
        wall: Callable[[], float],
        on_online: Callable[[], None],
    ) -> None:
        self.reconnects = 0
        self._identity = identity
        self._transport = transport
        self._wall = wall
        self._on_online = on_online

    async def run(self) -> None:
        """Publish the birth on each connection, until cancelled."""
        connections = 0
        async for state in self._transport.states():
            if not state.connected:
                continue
            connections += 1
            self.reconnects = connections - 1
            if await self._say(True, "connected"):
                self._on_online()

    async def goodbye(self) -> None:
        """Say that the device goes on purpose; no effect when there is no connection."""
        if self._transport.state.connected:
            await self._say(False, "stopped")

    async def _say(self, online: bool, reason: str) -> bool:
        topic, payload = status(self._identity, online, reason, self._wall())
        try:
            await self._transport.publish(topic, payload, retain=True)
        except TransportError as error:
            _log.warning("status: %s", error.message)
            return False
        return True
