"""When the next frame may start."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgetrt.ports import Clock

SLACK = 0.1
"""Share of a period that a wake-up may be late and still count as on time: sleep is not exact."""


class Pace:
    """Keeps a rate without drift and without bursts.

    On time, deadlines stay on their grid. Late, the frame starts at once and the grid is laid anew from
    now: an engine of 120 ms asked for 10 Hz then gives 8.3 Hz, where waiting for the grid would give 5.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due_ns: int | None = None

    def due_s(self, rate_hz: float | None) -> float:
        """Seconds until the next frame may start; 0 when it may start now."""
        if rate_hz is None or self._due_ns is None:
            return 0.0
        early_ns = self._due_ns - self._clock.monotonic_ns()
        return early_ns / 1e9 if 0 < early_ns <= _period_ns(rate_hz) else 0.0

    def wait(self, rate_hz: float | None) -> int:
        """Wait for the next start; returns how many deadlines passed before the caller came."""
        if rate_hz is None:
            self._due_ns = None
            return 0
        period_ns = _period_ns(rate_hz)
        now = self._clock.monotonic_ns()
        if self._due_ns is None or self._due_ns > now + period_ns:  # first frame, or a faster grant
            self._due_ns = now
        if (early := self._due_ns - now) > 0:
            self._clock.sleep(early / 1e9)
            now = self._clock.monotonic_ns()
        late = now - self._due_ns
        missed = 0
        if late > SLACK * period_ns:
            missed = max(1, late // period_ns) if early <= 0 else late // period_ns
            self._due_ns = now
        self._due_ns += period_ns
        return missed


def _period_ns(rate_hz: float) -> int:
    """At most some thirty years, however near to nothing the rate is."""
    return max(1, round(min(1e9 / rate_hz, 1e18)))
