"""What is done beside the pipelines, with the processor time that they leave over."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_PRIORITY = 10
"""Nice value, above this process's own, at which it is done."""


def aside(work: Callable[[], T]) -> T:
    """Do something at low priority, and wait for it.

    Threads that it starts, as loading a network does, inherit that; those that stay come back to the usual
    priority afterwards.
    """
    before = set(_threads())
    with ThreadPoolExecutor(1, "aside", _step_back) as thread:
        try:
            return thread.submit(work).result()
        finally:
            for started in set(_threads()) - before:
                _put(started, 0)


@lru_cache(maxsize=1)
def may_come_back() -> bool:
    """Whether a thread of this process may go back to the usual priority.

    Root may, and who has `LimitNICE=+0` (systemd.exec(5)), as our unit does.
    """

    def tried() -> bool:
        return _put(threading.get_native_id(), 0)

    return aside(tried)


def _step_back() -> None:
    _put(threading.get_native_id(), _PRIORITY)


def _put(thread: int, above: int) -> bool:
    """Give a thread so much more than this process's own nice value; False where that is not allowed."""
    try:
        usual = os.getpriority(os.PRIO_PROCESS, os.getpid())
        os.setpriority(os.PRIO_PROCESS, thread, usual + above)
    except PermissionError:
        return False
    except ProcessLookupError:  # it has ended
        return True
    return True


def _threads() -> list[int]:
    return [int(path.name) for path in Path("/proc/self/task").iterdir()]
