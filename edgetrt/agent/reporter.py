"""Gathers what is known, lets it be judged, and tells it: health, events, the local status file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgetrt import wire
from edgetrt.agent import machine, status
from edgetrt.agent.entry import Moment, Priority
from edgetrt.agent.health import Trends, Window, health_message
from edgetrt.agent.verdict import Demand, Facts, Verdict, judge, stuck

if TYPE_CHECKING:
    from edgetrt.agent.identity import Identity
    from edgetrt.agent.intake import Intake
    from edgetrt.agent.outbox import Outbox
    from edgetrt.agent.publisher import Publisher
    from edgetrt.config import DeviceConfig
    from edgetrt.ports import Transport
    from edgetrt.types import BoardState

UPDATES_MB = 30.0
"""What the libraries that check signatures take: an agent that takes releases may hold so much more."""
_QUIET_S = 0.1
"""Between two health messages at least, however often a pipeline changes its state."""
_JITTER = 0.2
"""So that devices which started together do not report together."""
_OFFLINE_S = 60.0
"""Between two health messages that only wait for a connection."""


class Reporter:
    """Tells the device's health on a period and when `due` is set.

    Args:
        identity: who.
        config: periods and limits.
        transport: asked for its state.
        outbox: asked for what waits.
        intake: asked for the pipelines.
        publisher: where messages go.
        report: makes the agent's report about itself.
        now: by both clocks.
        demands: what is configured, by pipeline.
        run_folder: where the status file goes; None = nowhere.
        state_folder: whose disk is watched.
        board: asked for power mode and temperatures.
        settings: why settings from afar are not in force.

    Attributes:
        latest: the last health that was told.
        update: how far an update is, for the status file; None = this device takes no releases.
    """

    def __init__(
        self,
        identity: Identity,
        config: DeviceConfig,
        transport: Transport,
        outbox: Outbox,
        intake: Intake,
        publisher: Publisher,
        report: Callable[[], wire.AgentReport],
        now: Callable[[], Moment],
        demands: Mapping[str, Demand],
        run_folder: Path | None,
        state_folder: Path | None,
        board: Callable[[], BoardState],
        settings: Callable[[], tuple[wire.Reason, ...]] = tuple,
    ) -> None:
        self.due = asyncio.Event()
        self.latest: wire.HealthMessage | None = None
        self.update: wire.UpdateReport | None = None
        self._identity = identity
        self._config = config
        self._limits = config.health
        if config.update is not None:
            more_mb = config.health.agent_mb + UPDATES_MB
            self._limits = msgspec.structs.replace(config.health, agent_mb=more_mb)
        self._transport = transport
        self._outbox = outbox
        self._intake = intake
        self._publisher = publisher
        self._report = report
        self._now = now
        self._demands, self._demanded_ns = demands, 0
        self._stuck_ns: int | None = None
        self._run_folder = run_folder
        self._state_folder = state_folder
        self._board = board
        self._settings = settings
        self._trends = Trends()
        self._overcurrents: Window[int] = Window(60.0)
        self._known: tuple[str, frozenset[tuple[str, str]]] = ("ok", frozenset())
        self._moved_aside = 0
        self._sent_ns = 0
        self._offline_ns: int | None = now().mono_ns

    def demand(self, demands: Mapping[str, Demand]) -> None:
        """Judge by other demands from now on: another release serves."""
        self._demands, self._demanded_ns = demands, self._now().mono_ns

    @property
    def demands(self) -> Mapping[str, Demand]:
        """What is to run now."""
        return self._demands

    async def run(self) -> None:
        """Tell health until cancelled."""
        period_s = self._config.publish.health_s
        while True:
            wait_s = period_s * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.due.wait(), wait_s)
            self.due.clear()
            self.tell()
            await asyncio.sleep(_QUIET_S)

    def tell(self) -> None:
        """Judge and tell now."""
        now = self._now()
        connected = self._transport.state.connected
        self._offline_ns = None if connected else self._offline_ns or now.mono_ns
        pipelines = self._intake.pipelines.reports(now.mono_ns)
        facts = self._facts(now, pipelines)
        verdict = judge(facts, self._limits)
        changed = self._tell_changes(verdict, facts.outbox)

        def make(seq: int) -> wire.HealthMessage:
            return health_message(
                self._identity,
                seq,
                now.wall,
                facts.agent,
                pipelines,
                verdict,
                facts.outbox,
                facts.machine,
                facts.board,
                facts.clock,
            )

        if connected or changed or now.mono_ns - self._sent_ns >= _OFFLINE_S * 1e9:
            self._sent_ns = now.mono_ns
            self.latest = self._publisher.health(make)
        else:
            self.latest = make(-1)
        self._write_status(self.latest)

    def end(self) -> None:
        """Take the status file away: the agent goes on purpose."""
        if self._run_folder is not None:
            (self._run_folder / status.FILE).unlink(missing_ok=True)

    def outbox_report(self) -> wire.OutboxReport:
        """What waits, by class."""
        keeper, config = self._outbox.keeper, self._config.outbox
        depths = {priority.label: keeper.depth(priority) for priority in Priority}
        return wire.OutboxReport(
            store="memory" if keeper.volatile else "disk",
            error=keeper.state.error,
            rows={name: depth.rows for name, depth in depths.items()},
            bytes={name: depth.bytes for name, depth in depths.items()},
            limit_bytes=round(1e6 * (config.memory_mb if keeper.volatile else config.max_mb)),
            dropped={of.label: count for of, count in self._outbox.dropped.items()},
            recovered=self._outbox.recovered,
            moved_aside=keeper.state.moved_aside,
            unheard=self._outbox.unheard,
        )

    def _facts(self, now: Moment, pipelines: tuple[wire.PipelineReport, ...]) -> Facts:
        total = sum(self._outbox.dropped.values())
        before, restarts, dropped = self._trends.put(now.mono_ns, pipelines, total)
        board = self._board()
        why = stuck(self.update)
        self._stuck_ns = (self._stuck_ns or now.mono_ns) if why else None
        offline_ns = 0 if self._offline_ns is None else now.mono_ns - self._offline_ns
        return Facts(
            pipelines=pipelines,
            demands=self._demands,
            demanded_s=(now.mono_ns - self._demanded_ns) * 1e-9,
            settings=self._settings(),
            before=before,
            restarts=restarts,
            agent=self._report(),
            outbox=self.outbox_report(),
            dropped=dropped,
            machine=machine.machine(self._state_folder),
            clock=wire.ClockReport(
                boot=self._identity.boot, mono_ns=now.mono_ns, synced=machine.synced(now.wall)
            ),
            offline_s=offline_ns * 1e-9,
            board=board,
            overcurrents=self._rise(now.mono_ns, board),
            stuck=why,
            stuck_s=(now.mono_ns - (self._stuck_ns or now.mono_ns)) * 1e-9,
        )

    def _rise(self, now_ns: int, board: BoardState) -> int:
        """How often in the last minute the board slowed down for its current."""
        count = board.overcurrents
        return 0 if count is None else count - self._overcurrents.put(now_ns, count)

    def _tell_changes(self, verdict: Verdict, outbox: wire.OutboxReport) -> bool:
        """Make events of what is new; True when the verdict is another one."""
        if outbox.moved_aside > self._moved_aside:
            self._moved_aside = outbox.moved_aside
            self._publisher.event("outbox", "outbox", "its file was damaged and was replaced")
        known = verdict.state, frozenset((r.code, r.about) for r in verdict.reasons)
        if known == self._known:
            return False
        self._known = known
        reasons = "; ".join(f"{r.about}: {r.text}" for r in verdict.reasons)
        self._publisher.event("health", "device", f"{verdict.state}: {reasons}".removesuffix(": "))
        return True

    def _write_status(self, health: wire.HealthMessage) -> None:
        if self._run_folder is None:
            return
        state = self._transport.state
        status.write(
            self._run_folder,
            status.Status(
                health=health,
                connected=state.connected,
                broker=state.reason,
                pid=os.getpid(),
                period_s=self._config.publish.health_s * (1 + _JITTER),
                update=self.update,
            ),
        )
