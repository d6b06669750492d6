"""The next result of a pipeline, for who asks once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgetrt.types import Result


class ResultTap:
    """A sink that keeps nothing unless somebody waits."""

    def __init__(self) -> None:
        self._came = threading.Condition()
        self._waiting = 0
        self._result: Result | None = None

    def put(self, result: Result) -> bool:
        """Hand it to who waits."""
        if self._waiting:
            with self._came:
                self._result = result
                self._came.notify_all()
        return True

    def close(self) -> None:
        """Nothing to finish."""

    def next(self, timeout_s: float) -> Result | None:
        """Wait for the next result; None when none comes in time."""
        with self._came:
            self._waiting += 1
            self._result = None
            try:
                self._came.wait_for(lambda: self._result is not None, timeout_s)
                return self._result
            finally:
                self._waiting -= 1
                if not self._waiting:
                    self._result = None
