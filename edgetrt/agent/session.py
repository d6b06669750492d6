"""The life of the device on the broker: last will, birth, goodbye."""

from __future__ import annotations

import asyncio
import logging
import platform
from typing import TYPE_CHECKING

from edgetrt import wire
from edgetrt.agent.duplicates import DuplicateIdentity
from edgetrt.agent.machine import synced
from edgetrt.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetrt.agent.entry import Moment
    from edgetrt.agent.identity import Identity
    from edgetrt.ports import Transport

_log = logging.getLogger(__name__)

_REPORTED_S = 1.0


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


def reported(
    identity: Identity,
    now: Moment,
    pipelines: tuple[wire.ReportedPipeline, ...],
    update: wire.UpdateReport | None = None,
    settled: tuple[int, dict[str, str]] = (0, {}),
) -> wire.ReportedMessage:
    """What the device is and runs."""
    return wire.ReportedMessage(
        device=identity.device,
        epoch=identity.epoch,
        time=round(now.wall, 3),
        version=identity.version,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        clock=wire.ClockReport(boot=now.boot, mono_ns=now.mono_ns, synced=synced(now.wall)),
        pipelines=pipelines,
        update=update,
        generation=settled[0],
        unsettled=settled[1],
    )


class Session:
    """Announces the device on every connection.

    Args:
        identity: who.
        transport: over what.
        now: by both clocks.
        pipelines: what runs, for `reported`.
        on_online: called after each announcement.
        update: how far an update is, for `reported`; None where none is taken.
        settled: generation of the settings that are wanted, and by pipeline why they are not in force.
        duplicates: looks out for other agents with our identity.

    Attributes:
        reconnects: connections after the first.
        changed: set by others when what is reported has changed.
    """

    def __init__(
        self,
        identity: Identity,
        transport: Transport,
        now: Callable[[], Moment],
        pipelines: Callable[[], tuple[wire.ReportedPipeline, ...]],
        on_online: Callable[[], None],
        update: Callable[[], wire.UpdateReport | None] = lambda: None,
        settled: Callable[[], tuple[int, dict[str, str]]] = lambda: (0, {}),
        duplicates: DuplicateIdentity | None = None,
    ) -> None:
        self.reconnects = 0
        self._duplicates = duplicates or DuplicateIdentity(identity, now)
        self.changed = asyncio.Event()
        self._identity = identity
        self._transport = transport
        self._now = now
        self._pipelines = pipelines
        self._on_online = on_online
        self._update = update
        self._settled = settled

    async def run(self) -> None:
        """Publish birth and `reported` on each connection, and what changes, until cancelled."""
        following = asyncio.create_task(self._follow_changes())
        connections = 0
        try:
            async for state in self._transport.states():
                if state.taken_over:
                    self._duplicates.taken_over()
                if not state.connected:
                    continue
                connections += 1
                self.reconnects = connections - 1
                if await self._say(True, "connected"):
                    self._on_online()
                self.changed.set()
        finally:
            following.cancel()

    async def goodbye(self) -> None:
        """Say that the device goes on purpose; no effect when there is no connection."""
        if self._transport.state.connected:
            await self._say(False, "stopped")

    async def _follow_changes(self) -> None:
        while True:
            await self.changed.wait()
            self.changed.clear()
            if self._transport.state.connected:
                message = reported(
                    self._identity,
                    self._now(),
                    self._pipelines(),
                    self._update(),
                    self._settled(),
                )
                await self._retain(wire.reported(self._identity.device), wire.encode(message))
            # A pipeline that keeps changing its state is told in events, not here.
            await asyncio.sleep(_REPORTED_S)

    async def _say(self, online: bool, reason: str) -> bool:
        topic, payload = status(self._identity, online, reason, self._now().wall)
        if online:
            self._duplicates.said(payload)
        return await self._retain(topic, payload)

    async def _retain(self, topic: str, payload: bytes) -> bool:
        try:
            await self._transport.publish(topic, payload, retain=True)
        except TransportError as error:
            _log.warning("%s", error.message)
            return False
        return True
