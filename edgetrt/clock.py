"""The system's clock behind the port `Clock`."""

from __future__ import annotations

import time


class SystemClock:
    """Real time."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since some point in the past."""
        return time.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)
