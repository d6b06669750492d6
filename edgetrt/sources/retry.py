"""How long to wait before a lost camera is tried again."""

from __future__ import annotations


def backoff_s(attempt: int, first_s: float, most_s: float, draw: float) -> float:
    """Return the pause before an attempt (0, 1, …): exponential, with full jitter.

    `draw` is uniform in 0..1. Full jitter spreads the return of many devices over the whole interval
    (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """
    return draw * min(most_s, first_s * 2.0 ** min(attempt, 32))
