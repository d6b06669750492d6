"""Is the device well, and if not, why: one pure function from reports and limits to a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from edgetrt.config import HealthConfig
from edgetrt.types import BoardState, Counters
from edgetrt.wire import (
    AgentReport,
    ClockReport,
    MachineReport,
    OutboxReport,
    PipelineReport,
    Reason,
    UpdateReport,
)

STATES = ("ok", "degraded", "failing")
"""From best to worst."""

_FEW_FRAMES = 20
"""Below this many frames in the window a share says nothing."""
_FAILING_RATE = 0.1
_FAILING_FREE = 0.4
"""Share of a limit at which degraded becomes failing."""
_EARLY = ("VERIFY", "FETCH")
"""States of an update that need a clock and a repository."""
_OPENING_S = 3.0
"""How long the agent's start may take to open the outbox before anybody hears of it."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a pipeline is configured to do.

    `rate_hz` None = as fast as it can. `engine` is the fingerprint that was deployed, or empty.
    """

    rate_hz: float | None = None
    engine: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a verdict rests on.

    Attributes:
        pipelines: the latest reports, with their ages.
        demands: what is configured, by pipeline.
        settings: those from afar that are not in force.
        before: counters about a minute ago, by pipeline; a missing one counts from 0.
        restarts: restarts in the last hour, by pipeline.
        agent: the agent about itself.
        outbox: what waits.
        dropped: messages that the outbox dropped in the last hour.
        machine: memory and disk.
        clock: whether it was set.
        offline_s: since the connection was lost; 0 while there is one.
        board: temperatures and power mode.
        overcurrents: how often in the last minute the board slowed down because it drew too much.
        demanded_s: since the demands are these; a report from before does not know them.
        stuck: why no update can be looked at or fetched, as `stuck` says; empty = nothing is in its way.
        stuck_s: for how long it has been so.
    """

    pipelines: tuple[PipelineReport, ...]
    agent: AgentReport
    demands: Mapping[str, Demand] = field(default_factory=dict)
    settings: tuple[Reason, ...] = ()
    before: Mapping[str, Counters] = field(default_factory=dict)
    restarts: Mapping[str, int] = field(default_factory=dict)
    outbox: OutboxReport = field(default_factory=OutboxReport)
    dropped: int = 0
    machine: MachineReport = field(default_factory=MachineReport)
    clock: ClockReport = field(default_factory=ClockReport)
    offline_s: float = 0.0
    board: BoardState = field(default_factory=BoardState)
    overcurrents: int = 0
    demanded_s: float = math.inf
    stuck: str = ""
    stuck_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The worst state among the reasons, and the reasons, worst first."""

    state: str
    reasons: tuple[Reason, ...]


def judge(facts: Facts, limits: HealthConfig) -> Verdict:
    """Judge a device."""
    reasons = [
        *_missing(facts, limits),
        *facts.settings,
        *(reason for report in facts.pipelines for reason in _pipeline(report, facts, limits)),
        *_agent(facts, limits),
        *_outbox(facts, limits),
        *_update(facts, limits),
        *_machine(facts.machine, limits),
        *_board(facts, limits),
    ]
    reasons.sort(key=lambda reason: -STATES.index(reason.state))
    return Verdict(reasons[0].state if reasons else "ok", tuple(reasons))


def _degraded(code: str, about: str, text: str) -> Reason:
    return Reason(state="degraded", code=code, about=about, text=text)


def _failing(code: str, about: str, text: str) -> Reason:
    return Reason(state="failing", code=code, about=about, text=text)


def _missing(facts: Facts, limits: HealthConfig) -> Iterator[Reason]:
    """Pipelines that are configured and never reported."""
    if facts.agent.uptime_s < 2 * limits.silent_s:
        return
    known = {report.pipeline for report in facts.pipelines}
    for name in sorted(set(facts.demands) - known):
        yield _failing("missing", name, "configured, and the runtime has not reported it")


def _pipeline(report: PipelineReport, facts: Facts, limits: HealthConfig) -> Iterator[Reason]:
    name = report.pipeline
    told = f": {report.error}" if report.error else ""
    if report.state == "failed":
        yield _failing("failed", name, f"given up{told}")
        return
    if report.state == "ended":
        return
    if report.age_s > limits.silent_s:
        yield _failing("silent", name, f"no report for {report.age_s:.0f} s")
        return
    if report.state == "backoff":
        yield _degraded("backoff", name, f"waiting to be opened again{told}")
    restarts = facts.restarts.get(name, 0)
    if restarts > limits.restarts_per_h:
        yield _degraded(
            "restarts", name, f"{restarts} restarts in an hour, at most {limits.restarts_per_h:g}"
        )
    if report.state == "running":
        yield from _running(report, facts, limits)


def _running(report: PipelineReport, facts: Facts, limits: HealthConfig) -> Iterator[Reason]:
    name, demand = report.pipeline, _demand(report, facts.demands.get(report.pipeline, Demand()))
    spent = _since(facts.before.get(name), report.counters)
    if demand.rate_hz is not None and spent.read >= min(_FEW_FRAMES, demand.rate_hz):
        share = report.fps / demand.rate_hz
        text = f"{report.fps:.2f} Hz of {demand.rate_hz:g} demanded, at least {limits.rate:.0%}"
        if share < _FAILING_RATE * limits.rate:
            yield _failing("rate", name, text)
        elif share < limits.rate:
            yield _degraded("rate", name, text)
    latency = report.latency
    if latency is not None and limits.latency_ms is not None and latency.p99_ms > limits.latency_ms:
        yield _degraded(
            "latency", name, f"p99 {latency.p99_ms:.1f} ms, at most {limits.latency_ms:g}"
        )
    if spent.read >= _FEW_FRAMES:
        if spent.refused / spent.read > limits.refused:
            yield _degraded(
                "refused",
                name,
                f"{spent.refused} of {spent.read} frames, at most {limits.refused:.0%}",
            )
        if demand.rate_hz is None and spent.dropped / spent.read > limits.dropped:
            yield _degraded(
                "dropped",
                name,
                f"{spent.dropped} of {spent.read} frames, at most {limits.dropped:.0%}",
            )
    heard = report.age_s < facts.demanded_s
    if heard and demand.engine and not demand.engine.startswith(report.engine):
        yield _degraded(
            "engine", name, f"runs {report.engine[:12]}, deployed was {demand.engine[:12]}"
        )


def _demand(report: PipelineReport, configured: Demand) -> Demand:
    """What is demanded now: a rate from afar that is in force goes before the file's."""
    rate_hz = report.settings.get("rate_hz")
    return replace(configured, rate_hz=rate_hz) if isinstance(rate_hz, float | int) else configured


def _since(before: Counters | None, now: Counters) -> Counters:
    """What was counted since; a restarted runtime counts from 0."""
    if before is None or before.read > now.read:
        return now
    return Counters(
        read=now.read - before.read,
        done=now.done - before.done,
        dropped=now.dropped - before.dropped,
        refused=now.refused - before.refused,
    )


def _agent(facts: Facts, limits: HealthConfig) -> Iterator[Reason]:
    if facts.agent.rss_bytes is not None and facts.agent.rss_bytes > limits.agent_mb * 1e6:
        held = facts.agent.rss_bytes / 1e6
        yield _degraded("memory", "agent", f"holds {held:.0f} MB, at most {limits.agent_mb:g}")
    if facts.offline_s > limits.offline_s:
        yield _degraded("offline", "broker", f"no connection for {facts.offline_s:.0f} s")
    if facts.clock.synced is False:
        yield _degraded("clock", "clock", "not set from the network since this boot")


def _outbox(facts: Facts, limits: HealthConfig) -> Iterator[Reason]:
    outbox = facts.outbox
    opening = facts.agent.uptime_s < _OPENING_S
    if outbox.store == "disk" and outbox.error and not opening:
        yield _degraded("store", "outbox", f"{outbox.error}; what waits is in memory only")
    held = sum(outbox.bytes.values())
    if outbox.limit_bytes and held > limits.outbox * outbox.limit_bytes:
        share = held / outbox.limit_bytes
        yield _degraded("depth", "outbox", f"{share:.0%} full, at most {limits.outbox:.0%}")
    if outbox.unheard:
        yield _degraded(
            "unheard", "broker", "nobody subscribes to this device; its messages are kept"
        )
    if facts.dropped:
        yield _degraded("lost", "outbox", f"{facts.dropped} messages dropped in an hour")


def stuck(update: UpdateReport | None) -> str:
    """Why no update can be looked at or fetched; one that waits for its window or is built is not stuck."""
    if update is None:
        return ""
    early = not update.state or update.code or update.state in _EARLY
    return update.fault or (update.held if early else "")


def _update(facts: Facts, limits: HealthConfig) -> Iterator[Reason]:
    if facts.stuck and facts.stuck_s > limits.offline_s:
        yield _degraded("update", "update", facts.stuck)


def _machine(machine: MachineReport, limits: HealthConfig) -> Iterator[Reason]:
    parts = (
        ("memory", machine.memory_available, machine.memory_total, limits.memory_free),
        ("disk", machine.disk_free, machine.disk_total, limits.disk_free),
    )
    for code, free, total, limit in parts:
        if free is None or not total or free / total >= limit:
            continue
        text = f"{free / 1e6:.0f} MB free of {total / 1e6:.0f}, at least {limit:.0%}"
        make = _failing if free / total < _FAILING_FREE * limit else _degraded
        yield make(code, "machine", text)


def _board(facts: Facts, limits: HealthConfig) -> Iterator[Reason]:
    """Heat, and what the board does about it; a board that does not tell gives no reason."""
    room_c, zones = facts.board.headroom_c, facts.board.temperatures_c
    if room_c is not None and room_c < limits.headroom_c:
        text = f"{max(zones.values()):.1f} °C in the hottest zone, "
        if room_c <= 0:
            yield _degraded("throttled", "board", text + "where it slows down")
        else:
            told = f"{room_c:.1f} below where it slows down, at least {limits.headroom_c:g}"
            yield _degraded("temperature", "board", text + told)
    if facts.overcurrents:
        yield _degraded(
            "overcurrent",
            "board",
            f"slowed down {facts.overcurrents} times in a minute for its current",
        )
