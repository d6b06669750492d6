"""Lets results through at a rate, and commands by an allowance."""

from __future__ import annotations


class RateLimiter:
    """On a grid of 1/rate, so that frames which do not divide it still give the rate on average.

    At most rate·t + 2 pass in any time t. Time that goes back or jumps starts the grid anew.

    Args:
        rate_hz: None lets everything through.
    """

    def __init__(self, rate_hz: float | None) -> None:
        self._period_ns = 0 if rate_hz is None else round(1e9 / rate_hz)
        self._due_ns: int | None = None

    def allow(self, now_ns: int) -> bool:
        """Whether what comes now may pass."""
        period, due = self._period_ns, self._due_ns
        if due is None or not due - period <= now_ns <= due + period:
            self._due_ns = now_ns + period
            return True
        if now_ns < due:
            return False
        self._due_ns = due + period
        return True


class Allowance:
    """Lets so many through in a row, and after that one per so many seconds.

    Args:
        burst: in a row.
        every_s: for each of them to come back.
    """

    def __init__(self, burst: int, every_s: float) -> None:
        self._every_ns = round(every_s * 1e9)
        self._burst = burst
        self._full_ns: int | None = None

    def take(self, now_ns: int) -> bool:
        """Whether what comes now may pass."""
        full_ns = now_ns if self._full_ns is None else max(now_ns, self._full_ns)
        if full_ns + self._every_ns - now_ns > self._burst * self._every_ns:
            return False
        self._full_ns = full_ns + self._every_ns
        return True
