"""How long to wait before what failed is tried again."""

from __future__ import annotations


def full_jitter_s(attempt: int, first_s: float, most_s: float, draw: float) -> float:
    """Return the pause before an attempt (0, 1, …): anything up to a bound that doubles.

    The bound is `first_s`, doubled with each attempt up to `most_s`.

    `draw` is uniform in 0..1. Drawing from the whole interval spreads the return of many devices
    over it ("full jitter": Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """
    return draw * min(most_s, first_s * 2.0 ** min(attempt, 32))
