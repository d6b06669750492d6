"""Our values to messages; arrays become lists, rounded to what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgetrt.types import Detections, RawOutput, StageStats
from edgetrt.wire.local import (
    GrantMessage,
)
from edgetrt.wire.messages import (
    Box,
    EventMessage,
    FrameResult,
    HealthMessage,
    PipelineReport,
    ReportedMessage,
    ResultMessage,
    Tensor,
)

if TYPE_CHECKING:
    from edgetrt.types import Grant, PipelineHealth, Result

MAX_RAW_VALUES = 4096
"""A raw tensor with more elements than this is described by its shape alone."""


def result_message(
    result: Result, unsent: int = 0, most_values: int = MAX_RAW_VALUES
) -> FrameResult:
    """Turn a result into JSON-ready values: boxes to 0.1 pixel, scores to 4 digits.

    A raw tensor of more than `most_values` is told without its values.
    """
    frame, output = result.frame, result.output
    return FrameResult(
        pipeline=result.pipeline,
        frame=frame.seq,
        mono_ns=frame.captured_ns,
        size=frame.size,
        engine=result.engine,
        latency_ms=round(result.latency_ns * 1e-6, 3),
        objects=_objects(output, result.labels) if isinstance(output, Detections) else None,
        tensors=_tensors(output, most_values) if isinstance(output, RawOutput) else None,
        dropped=result.dropped,
        unsent=unsent,
    )


def stamp(
    message: FrameResult, *, device: str, epoch: int, seq: int, time_s: float, boot: str
) -> ResultMessage:
    """Make a runtime's result the device's: who, which one, when."""
    fields = {name: getattr(message, name) for name in FrameResult.__struct_fields__}
    return ResultMessage(
        **fields, device=device, epoch=epoch, seq=seq, time=round(time_s, 3), boot=boot
    )


def mended_time_s(
    sample: ResultMessage | EventMessage, later: HealthMessage | ReportedMessage
) -> float:
    """When a sample was made, by a clock that was set after it.

    A device without a battery starts in 1970 and keeps working; from the first message with a synced
    clock on, everything of that boot can be dated.
    """
    if later.clock.synced is not True or not sample.boot or later.clock.boot != sample.boot:
        return sample.time
    return later.time - (later.clock.mono_ns - sample.mono_ns) * 1e-9


def pipeline_report(
    health: PipelineHealth, rss_bytes: int | None = None, process_ns: int = 0
) -> PipelineReport:
    """A pipeline's health as a message, with memory and begin of its process; times to 1 µs."""
    return PipelineReport(
        pipeline=health.pipeline,
        state=health.state,
        backend=health.backend,
        engine=health.engine,
        fps=round(health.fps, 2),
        latency=_rounded(health.latency) if health.latency else None,
        stages={name: _rounded(stats) for name, stats in health.stages.items()},
        counters=health.counters,
        error=health.error,
        objects=None if health.objects is None else round(health.objects, 2),
        settings=dict(health.settings),
        generation=health.generation,
        unsettled=health.unsettled,
        rss_bytes=rss_bytes,
        process_ns=process_ns,
    )


def grant_message(pipeline: str, grant: Grant) -> GrantMessage:
    """A pipeline's grant as a message."""
    return GrantMessage(pipeline=pipeline, rate_hz=grant.rate_hz)


def _objects(found: Detections, labels: tuple[str, ...]) -> tuple[Box, ...]:
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True)
    return tuple(
        Box(
            box=(round(x1, 1), round(y1, 1), round(x2, 1), round(y2, 1)),
            score=round(score, 4),
            label=labels[index] if 0 <= index < len(labels) else str(index),
            class_=index,
        )
        for (x1, y1, x2, y2), score, index in rows
    )


def _tensors(output: RawOutput, most_values: int) -> dict[str, Tensor]:
    return {
        name: Tensor(
            shape=tensor.shape,
            dtype=str(tensor.dtype),
            data=None if tensor.size > most_values else _values(tensor.ravel().tolist()),
        )
        for name, tensor in output.tensors.items()
    }


def _values(values: list[float]) -> tuple[float, ...]:
    """Six significant digits, as many as float32 holds."""
    return tuple(float(f"{value:.6g}") for value in values)


def _rounded(stats: StageStats) -> StageStats:
    return StageStats(round(stats.p50_ms, 3), round(stats.p99_ms, 3), round(stats.mean_ms, 3))
