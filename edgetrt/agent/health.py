"""What the health message says; no I/O and no clock of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from edgetrt.wire import AgentReport, HealthMessage, PipelineReport

if TYPE_CHECKING:
    from edgetrt.agent.identity import Identity


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


def health_message(
    identity: Identity,
    seq: int,
    time_s: float,
    agent: AgentReport,
    pipelines: tuple[PipelineReport, ...],
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
    )
