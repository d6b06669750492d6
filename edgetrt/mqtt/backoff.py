"""How long to wait before the next attempt to connect."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_BOOTING_S = 300.0
_LOOPBACK = re.compile(r"localhost|127\..*|::1")


def first_wait_s(spread_s: float, since_boot_s: float, host: str) -> float:
    """Upper bound of the wait before the first attempt.

    When the power of a site comes back, all its devices boot together. A broker on the device itself
    has no such crowd.
    """
    return 0.0 if since_boot_s > _BOOTING_S or _LOOPBACK.fullmatch(host) else spread_s


class Backoff:
    """Full jitter: uniform in 0 … min(cap, base·2ⁿ), so that a fleet does not come back at once.

    The formula is from "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Args:
        base_s: upper bound of the first wait.
        cap_s: upper bound of every wait.
        stable_s: a connection that held this long makes the next wait a first one.
        uniform: draws from (low, high).
    """

    def __init__(
        self,
        base_s: float = 1.0,
        cap_s: float = 120.0,
        stable_s: float = 60.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._stable_s = stable_s
        self._uniform = uniform
        self._failures = 0

    def delay_s(self) -> float:
        """Draw the wait before the next attempt."""
        bound = min(self._cap_s, self._base_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return self._uniform(0.0, bound)

    def held(self, seconds: float) -> None:
        """Tell how long a connection lasted."""
        if seconds >= self._stable_s:
            self._failures = 0
