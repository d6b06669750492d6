"""Let a source that is not a camera deliver like one: a frame per period, no burst after a delay."""

from __future__ import annotations

import threading
import time


class Pace:
    """Spaces frames evenly in time.

    Args:
        rate_hz: frames per second.
        stop: set from another thread to end a wait.
    """

    def __init__(self, rate_hz: float, stop: threading.Event) -> None:
        self._period_ns = round(1e9 / rate_hz)
        self._stop = stop
        self._due_ns: int | None = None

    def wait(self, timeout_s: float) -> bool:
        """Wait until the next frame is due; False when that is later than `timeout_s` from now.

        A reader that comes late gets its frame at once, and the next one a whole period later.
        """
        now = time.monotonic_ns()
        due = now if self._due_ns is None else self._due_ns
        ahead_s = (due - now) / 1e9
        if self._stop.wait(min(max(ahead_s, 0.0), timeout_s)) or ahead_s > timeout_s:
            return False
        late = now - due > self._period_ns
        self._due_ns = (now if late else due) + self._period_ns
        return True
