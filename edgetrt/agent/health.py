"""What the health message says; no I/O and no clock of its own."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from edgetrt.wire import (
    AgentReport,
    ClockReport,
    HealthMessage,
    MachineReport,
    OutboxReport,
    PipelineReport,
)

if TYPE_CHECKING:
    from edgetrt.agent.identity import Identity
    from edgetrt.agent.verdict import Verdict
    from edgetrt.types import BoardState, Counters

T = TypeVar("T")


class Pipelines:
    """The latest word of the runtime about each pipeline."""

    def __init__(self) -> None:
        self._latest: dict[str, tuple[PipelineReport, int]] = {}

    def put(self, report: PipelineReport, now_ns: int) -> bool:
        """Remember a report; True when the pipeline is new or its state is another one."""
        before = self._latest.get(report.pipeline)
        self._latest[report.pipeline] = report, now_ns
        return before is None or before[0].state != report.state

    def reports(self, now_ns: int) -> tuple[PipelineReport, ...]:
        """All of them by name, with their ages."""
        return tuple(
            msgspec.structs.replace(report, age_s=round((now_ns - heard_ns) * 1e-9, 3))
            for _, (report, heard_ns) in sorted(self._latest.items())
        )


class LinkLosses:
    """Adds up how many results the link did not take, over restarts of the runtime."""

    def __init__(self) -> None:
        self.total = 0
        self._last: dict[str, int] = {}

    def put(self, pipeline: str, unsent: int) -> None:
        """Take the count that came with a result; a lower one than before is that of a new runtime."""
        before = self._last.get(pipeline, 0)
        self.total += unsent - before if unsent >= before else unsent
        self._last[pipeline] = unsent


class Window(Generic[T]):
    """Remembers a value for a time, a bounded number of times.

    Args:
        span_s: how far back.
        points: values kept at most.
    """

    def __init__(self, span_s: float, points: int = 32) -> None:
        self._span_ns = round(span_s * 1e9)
        self._gap_ns = self._span_ns // points
        self._values: deque[tuple[int, T]] = deque()

    def put(self, now_ns: int, value: T) -> T:
        """Remember a value; returns the oldest that is not older than the span."""
        if not self._values or now_ns - self._values[-1][0] >= self._gap_ns:
            self._values.append((now_ns, value))
        while len(self._values) > 1 and now_ns - self._values[0][0] > self._span_ns:
            self._values.popleft()
        return self._values[0][1]


class Trends:
    """What changed lately: the counters a minute ago, restarts and drops in the last hour."""

    def __init__(self) -> None:
        self._minute: Window[dict[str, Counters]] = Window(60.0)
        self._hour: Window[tuple[dict[str, Counters], int]] = Window(3600.0)

    def put(
        self, now_ns: int, reports: tuple[PipelineReport, ...], dropped: int
    ) -> tuple[dict[str, Counters], dict[str, int], int]:
        """Take the present; returns the earlier counters, the restarts and the drops."""
        counters = {report.pipeline: report.counters for report in reports}
        before = self._minute.put(now_ns, counters)
        earlier, dropped_before = self._hour.put(now_ns, (counters, dropped))
        restarts = {
            name: count.restarts - earlier[name].restarts
            if name in earlier and earlier[name].restarts <= count.restarts
            else count.restarts
            for name, count in counters.items()
        }
        return before, restarts, dropped - dropped_before


def health_message(
    identity: Identity,
    seq: int,
    time_s: float,
    agent: AgentReport,
    pipelines: tuple[PipelineReport, ...],
    verdict: Verdict,
    outbox: OutboxReport,
    machine: MachineReport,
    board: BoardState,
    clock: ClockReport,
) -> HealthMessage:
    """The device's health now."""
    return HealthMessage(
        device=identity.device,
        epoch=identity.epoch,
        seq=seq,
        time=round(time_s, 3),
        version=identity.version,
        agent=agent,
        pipelines=pipelines,
        state=verdict.state,
        reasons=verdict.reasons,
        outbox=outbox,
        machine=machine,
        board=board,
        clock=clock,
    )
