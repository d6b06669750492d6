"""How a pipeline runs, in figures that two releases can be compared by; pure.

- **Nothing of the first seconds counts.** A pipeline's watch begins `SETTLE_S` after its first sign of
  the right engine: caches are cold, clocks ramp up, the first frames wait for the swap itself.
- **fps** is results over time, from the runtime's own counters, not from its rolling window, which
  does not begin with the watch. Where the source or the configured rate gives fewer frames
  than a band asks for, an engine cannot show more: then it has to have taken all that came. That is so
  when the pipeline was as fast as its rate, or waited for its source for `_WAITED` of the time while
  its engine was idle for some of it, and lost next to no frame (`Seen.sated`). Waiting alone does not
  tell: the next frame of a file is decoded while the engine is at work on this one.
- **p99** is over the single frames of the watch, the newest `MOST_FRAMES` of them, capture to result. A
  99th percentile of few frames is noise: six of 600 frames make it. So the question asked is not "is
  the measured p99 above the limit" but "are more frames above the limit than a true p99 at the limit
  would give by chance, once in a hundred" (the binomial distribution's own tail). Few frames make it lenient,
  many make it sharp; a release twice as slow fails with any number. Frames follow each other and are
  not independent, so that a burst of load counts for more than it should: it errs against the release.
- **Memory** is the runtime's, all pipelines together. It leaks when it has grown by more than
  `LEAK_MB` and `LEAK_SHARE` from the first third of the watch to the last and did not slow down on the
  way; a start that settles does slow down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgetrt.update.record import Figures

SETTLE_S = 3.0
MOST_FRAMES = 4096

FEW = 3
"""Results that a pipeline must have given at least."""

LEAK_MB, LEAK_SHARE = 24.0, 0.05
_LEAK_S = 20.0
_WAITED, _BUSY = 0.25, 0.9
_LOST = 0.02
_AT_RATE = 0.95
_CHANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One pipeline over its watch.

    Attributes:
        state, error: by its last report.
        engine: by its last report.
        span_s: how long the watch is, from its settled begin.
        silent_s: since its last report; None = it never reported since the switch.
        done, read, dropped, refused, restarts: counted in the watch.
        starts: how often the runtime's process began anew.
        waited, busy: shares of a frame's time in which its source was waited for, and the engine ran.
        rate_hz: what it is asked for; None = as fast as it can.
        latencies_ms: of the newest frames of the watch.
    """

    state: str = ""
    error: str = ""
    engine: str = ""
    span_s: float = 0.0
    silent_s: float | None = None
    done: int = 0
    read: int = 0
    dropped: int = 0
    refused: int = 0
    restarts: int = 0
    starts: int = 0
    waited: float = 0.0
    busy: float = 0.0
    rate_hz: float | None = None
    latencies_ms: Sequence[float] = ()

    @property
    def fps(self) -> float:
        """Results per second."""
        return self.done / self.span_s if self.span_s > 0 else 0.0

    @property
    def sated(self) -> bool:
        """Whether it took all that its source or its rate gave: an engine cannot show more."""
        lost = self.dropped > _LOST * max(1, self.read)
        if self.rate_hz is not None and self.fps >= _AT_RATE * self.rate_hz:
            return True
        return self.waited >= _WAITED and self.busy < _BUSY and not lost


def figures(seen: Seen) -> Figures | None:
    """What is remembered of a pipeline that serves; None when it says too little."""
    if seen.done < FEW or seen.span_s <= 0:
        return None
    return Figures(
        fps=round(seen.fps, 3),
        p99_ms=round(p99(seen.latencies_ms), 3) if seen.latencies_ms else None,
        frames=seen.done,
        sated=seen.sated,
    )


def p99(latencies_ms: Sequence[float]) -> float:
    """The 99th percentile: at most one frame in a hundred took longer."""
    ordered = sorted(latencies_ms)
    return ordered[max(0, math.ceil(0.99 * len(ordered)) - 1)]


def above(latencies_ms: Sequence[float], limit_ms: float) -> tuple[int, int]:
    """How many frames took longer than a limit, and how many may when the true p99 is there."""
    over = sum(1 for latency in latencies_ms if latency > limit_ms)
    return over, by_chance(len(latencies_ms))


def by_chance(frames: int) -> int:
    """So many of `frames` are above their true 99th percentile; more are once in a hundred at most."""
    count, share = 0, 0.99**frames
    below = share
    while 1.0 - below > _CHANCE:
        count += 1
        share *= (frames - count + 1) / count * (0.01 / 0.99)
        below += share
    return count


def leaks(memory_mb: Sequence[float], span_s: float) -> tuple[bool, float]:
    """Whether memory grows and goes on growing, and by how many MB it grew."""
    third = len(memory_mb) // 3
    if not third:
        return False, 0.0
    parts = [memory_mb[:third], memory_mb[third : 2 * third], memory_mb[2 * third :]]
    first, middle, last = (sorted(part)[len(part) // 2] for part in parts)
    grown = last - first
    steady = last - middle >= 0.5 * (middle - first)
    much = grown > max(LEAK_MB, LEAK_SHARE * first)
    return span_s >= _LEAK_S and much and steady, grown
