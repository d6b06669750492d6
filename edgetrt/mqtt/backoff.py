"""How long to wait before the next attempt to connect."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from edgetrt.backoff import full_jitter_s

_BOOTING_S = 300.0
_LOOPBACK = re.compile(r"localhost|127\..*|::1")


def first_wait_s(spread_s: float, since_boot_s: float, host: str) -> float:
    """Upper bound of the wait before the first attempt.

    When the power of a site comes back, all its devices boot together. A broker on the device itself
    has no such crowd.
    """
    return 0.0 if since_boot_s > _BOOTING_S or _LOOPBACK.fullmatch(host) else spread_s


class Backoff:
    """Counts failures, and draws the wait after each, so that a fleet does not come back at once.

    Args:
        base_s: upper bound of the first wait.
        cap_s: upper bound of every wait.
        stable_s: a connection that held this long makes the next wait a first one.
        draw: draws from 0..1.
    """

    def __init__(
        self,
        base_s: float = 1.0,
        cap_s: float = 120.0,
        stable_s: float = 60.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._stable_s = stable_s
        self._draw = draw
        self._failures = 0

    def delay_s(self) -> float:
        """Draw the wait before the next attempt."""
        attempt, self._failures = self._failures, self._failures + 1
        return full_jitter_s(attempt, self._base_s, self._cap_s, self._draw())

    def held(self, seconds: float) -> None:
        """Tell how long a connection lasted."""
        if seconds >= self._stable_s:
            self._failures = 0
