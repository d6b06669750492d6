"""The agent: results and health from the local link to the broker."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from edgetrt import wire
from edgetrt.agent import metrics
from edgetrt.agent.chunks import Chunks
from edgetrt.agent.duplicates import DuplicateIdentity
from edgetrt.agent.entry import Moment
from edgetrt.agent.home_assistant import HomeAssistant
from edgetrt.agent.intake import Intake
from edgetrt.agent.outbox import Outbox
from edgetrt.agent.publisher import Publisher
from edgetrt.agent.remote import Remote
from edgetrt.agent.reporter import Reporter
from edgetrt.agent.session import Session
from edgetrt.memory import resident_bytes
from edgetrt.types import BoardState

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

    from edgetrt.agent.identity import Identity
    from edgetrt.agent.inbound import Handler
    from edgetrt.agent.keeper import Store
    from edgetrt.agent.updating import Updating
    from edgetrt.agent.verdict import Demand
    from edgetrt.config import DeviceConfig
    from edgetrt.link import Receiver
    from edgetrt.ports import Transport

_log = logging.getLogger(__name__)

_FLUSH_S = 2.0
_GOODBYE_S = 1.0


class Agent:
    """Takes datagrams from the runtime and publishes them, until told to stop.

    The link is read in the event loop's own callback and never waits for the broker or the disk.

    Args:
        identity: who.
        config: what is published, how often, and what waits.
        transport: the connection to the broker, not yet entered.
        receiver: the agent's end of the local link.
        open_store: opens the disk that results wait on; None = they wait in memory.
        demands: what is configured, by pipeline.
        run_folder: where `edgetrt status` finds us; None = nowhere.
        state_folder: whose disk is watched.
        board: asked for power mode and temperatures.
        monotonic_ns: clock of rates, ages and of `Frame.captured_ns`.
        updating: walks the updates of this device; None = it takes none.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        identity: Identity,
        config: DeviceConfig,
        transport: Transport,
        receiver: Receiver,
        *,
        open_store: Callable[[], Store] | None = None,
        demands: Mapping[str, Demand] | None = None,
        run_folder: Path | None = None,
        state_folder: Path | None = None,
        board: Callable[[], BoardState] = BoardState,
        updating: Updating | None = None,
        config_path: Path | None = None,
        complaints: tuple[wire.Reason, ...] = (),
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._identity = identity
        self._config = config
        self._transport = transport
        self._receiver = receiver
        self._open_store = open_store
        self._demands = demands or {}
        self._run_folder = run_folder
        self._state_folder = state_folder
        self._board = board
        self._updating = updating
        self._config_path = config_path
        self._complaints = complaints
        self._monotonic_ns = monotonic_ns
        self._wall = wall
        self._started_ns = monotonic_ns()

    @property
    def stats(self) -> wire.AgentReport:
        """What the agent has done so far; only while it runs."""
        return wire.AgentReport(
            rss_bytes=resident_bytes(),
            uptime_s=round((self._monotonic_ns() - self._started_ns) * 1e-9, 3),
            received=self._intake.received,
            published=self._outbox.published,
            limited=self._intake.limited,
            unsent=self._outbox.unsent,
            pending=self._outbox.pending,
            malformed=self._intake.malformed,
            link_dropped=self._intake.link_dropped,
            reconnects=self._session.reconnects,
            commands=self._remote.commands,
            refused=self._remote.refused,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set; then send what is new, and say goodbye."""
        self._assemble()
        async with self._transport:
            parts = [asyncio.create_task(part) for part in self._parts()]
            try:
                await self._serve(stop, parts)
                await asyncio.wait_for(self._finish(), 2 * _FLUSH_S + _GOODBYE_S)
            except asyncio.TimeoutError:
                _log.warning("stopped with %d results unacknowledged", self._outbox.pending)
            finally:
                for part in parts:
                    part.cancel()
                await asyncio.wait(parts)
                self._reporter.end()
                await self._outbox.close()

    def _assemble(self) -> None:
        identity, config = self._identity, self._config
        self._outbox = Outbox(
            self._transport, identity.epoch, self._open_store, config.outbox, self._now
        )
        self._publisher = Publisher(identity, self._outbox, self._now)
        self._intake = Intake(
            identity.device,
            self._receiver,
            self._publisher,
            config.publish.result_hz,
            self._monotonic_ns,
            self._on_change,
            None if self._updating is None else self._updating.watch,
        )
        duplicates = DuplicateIdentity(identity, self._now)
        self._remote = Remote(
            identity,
            config,
            self._transport,
            self._publisher,
            self._now,
            lambda: self._intake.pipelines.reports(self._monotonic_ns()),
            lambda: self._reporter.latest,
            self._on_settled,
            config_path=self._config_path,
            run_folder=self._run_folder,
            state_folder=self._state_folder,
            desired=None if self._updating is None else self._updating.take,
            status=duplicates.heard,
            chunk=self._chunks(),
            updating=lambda: self._updating is not None and _is_underway(self._updating.report),
        )
        self._reporter = Reporter(
            identity,
            config,
            self._transport,
            self._outbox,
            self._intake,
            self._publisher,
            lambda: self.stats,
            self._now,
            self._demands,
            self._run_folder,
            self._state_folder,
            self._board,
            lambda: (*self._remote.reasons(), *duplicates.reasons(), *self._complaints),
        )
        self._session = Session(
            identity,
            self._transport,
            self._now,
            self._reported,
            self._reporter.due.set,
            lambda: None if self._updating is None else self._updating.report,
            lambda: (self._remote.control.wanted.generation, self._remote.unsettled()),
            duplicates,
        )
        self._home_assistant = HomeAssistant(
            config.home_assistant,
            identity,
            self._transport,
            lambda: self._reporter.latest,
            lambda: self._reporter.demands,
            self._state_folder,
        )
        if self._updating is not None:
            self._updating.connect(self._on_update, self._remote.settle, self._on_demands)

    def _chunks(self) -> Handler | None:
        """Who takes what the broker brings of a release, where it may."""
        line = None if self._updating is None else self._updating.line
        if line is None:
            return None
        return Chunks(self._identity.device, self._transport, line).take

    def _parts(self) -> list[Coroutine[None, None, None]]:
        parts = [
            self._outbox.run(),
            self._session.run(),
            self._reporter.run(),
            self._remote.run(),
        ]
        if self._updating is not None:
            parts.append(self._updating.run())
        if not self._home_assistant.idle:
            parts.append(self._home_assistant.run())
        if self._config.metrics.port is not None:
            parts.append(metrics.serve(self._config.metrics.port, self._metrics))
        return parts

    async def _serve(self, stop: asyncio.Event, parts: list[asyncio.Task[None]]) -> None:
        """Read the link until `stop`; a part that ends before that is a fault, and is raised."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._receiver.fileno(), self._intake.read)
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([stopped, *parts], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            loop.remove_reader(self._receiver.fileno())
        for part in done - {stopped}:
            part.result()

    async def _finish(self) -> None:
        """Send what is here, then the last health, with which an observer can reconcile."""
        self._intake.read()
        await self._outbox.flush(_FLUSH_S)
        self._reporter.tell()
        await self._outbox.flush(_FLUSH_S)
        await self._session.goodbye()

    def _on_change(self, report: wire.PipelineReport) -> None:
        told = f"{report.state}: {report.error}" if report.error else report.state
        self._publisher.event("pipeline", report.pipeline, told)
        self._session.changed.set()
        self._reporter.due.set()

    def _on_update(self, report: wire.UpdateReport, told: str) -> None:
        self._reporter.update = report
        if told:
            self._publisher.event("update", report.target or report.digest[:16], told)
            self._reporter.due.set()
        self._session.changed.set()

    def _on_settled(self) -> None:
        self._session.changed.set()
        self._reporter.due.set()

    def _on_demands(self, demands: Mapping[str, Demand]) -> None:
        self._reporter.demand(demands)
        self._reporter.due.set()

    def _reported(self) -> tuple[wire.ReportedPipeline, ...]:
        return tuple(
            wire.ReportedPipeline(
                pipeline=report.pipeline,
                state=report.state,
                backend=report.backend,
                engine=report.engine,
                settings=report.settings,
                generation=report.generation,
                unsettled=report.unsettled,
            )
            for report in self._intake.pipelines.reports(self._monotonic_ns())
        )

    def _metrics(self) -> str:
        if self._reporter.latest is None:
            self._reporter.tell()
        if self._reporter.latest is None:
            return ""
        return metrics.render(self._reporter.latest, self._transport.state.connected)

    def _now(self) -> Moment:
        return Moment(self._wall(), self._monotonic_ns(), self._identity.boot)


def _is_underway(update: wire.UpdateReport) -> bool:
    return bool(update.state) and not update.code
