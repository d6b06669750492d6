"""How fast an engine is by itself, in trtexec's words.

Throughput counts finished inferences over the wall time; latency is one inference from filled input buffers
to readable outputs. On a GPU the backend also tells how long enqueueing, copying and computing took; on a CPU
those are one and the same, and stay empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgetrt.ports import Clock, Session

WARM_UP = 5
UNSTABLE = 0.025
"""Coefficient of variance above which trtexec warns that clocks are not locked."""


@dataclass(frozen=True)
class Distribution:
    """Milliseconds."""

    min: float
    mean: float
    median: float
    max: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
        throughput_qps: inferences per second.
        latency_ms: of one inference.
        runs: how many were measured.
        walltime_s: how long that took.
        warnings: what makes the numbers doubtful, in words.
    """

    throughput_qps: float
    latency_ms: Distribution
    runs: int
    walltime_s: float
    warnings: tuple[str, ...] = ()


def bench(session: Session, seconds: float, clock: Clock, most: int = 100_000) -> Figures:
    """Run an engine for `seconds` on noise.

    Raises:
        InferenceError: the engine fails.
    """
    fill(session)
    for _ in range(WARM_UP):
        session.infer()
    times: list[int] = []
    start = now = clock.monotonic_ns()
    end = start + round(seconds * 1e9)
    while (now < end or not times) and len(times) < most:
        session.infer()
        before, now = now, clock.monotonic_ns()
        times.append(now - before)
    return summarize(times, (now - start) / 1e9)


def fill(session: Session) -> None:
    """Put noise into every input: networks run faster on zeros than on pictures."""
    random = np.random.default_rng(0)
    for buffer in session.buffers.values():
        integer = buffer.dtype.kind in "iu"
        values = random.integers(0, 255, buffer.shape) if integer else random.random(buffer.shape)
        np.copyto(buffer, values.astype(buffer.dtype))


def summarize(times_ns: Sequence[int], walltime_s: float) -> Figures:
    """Distribution and doubts; `times_ns` has at least one entry."""
    times: NDArray[np.float64] = np.asarray(times_ns, np.float64) / 1e6
    p90, p95, p99 = np.percentile(times, (90, 95, 99))
    variance = float(times.std() / times.mean()) if times.mean() else 0.0
    warnings = []
    if variance > UNSTABLE:
        warnings.append(
            f"latency varies by {variance:.1%}: other work runs here, or the clocks are not locked"
        )
    if len(times) < 10:
        warnings.append(f"only {len(times)} runs: measure for longer")
    return Figures(
        throughput_qps=round(len(times) / walltime_s, 2) if walltime_s else 0.0,
        latency_ms=Distribution(
            *(
                round(float(value), 4)
                for value in (
                    times.min(),
                    times.mean(),
                    np.median(times),
                    times.max(),
                    p90,
                    p95,
                    p99,
                )
            )
        ),
        runs=len(times),
        walltime_s=round(walltime_s, 3),
        warnings=tuple(warnings),
    )
