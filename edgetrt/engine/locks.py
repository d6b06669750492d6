"""One process at a time: advisory locks that end with the process that holds them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

from edgetrt.errors import EngineBuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_TICK_S = 0.1


@contextlib.contextmanager
def exclusive(
    path: Path,
    on_wait: Callable[[str], None] = lambda _: None,
    timeout_s: float | None = None,
) -> Iterator[None]:
    """Hold the lock file `path`; another holder is told once to `on_wait` and then waited for.

    Args:
        path: made when it is missing; its content is the holder's process number.
        on_wait: gets a sentence to show.
        timeout_s: None waits as long as it takes.

    Raises:
        EngineBuildError: the other one did not finish in time.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    told = False
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if try_lock(fd) and _still(fd, path):
                os.truncate(fd, 0)
                os.pwrite(fd, str(os.getpid()).encode("ascii"), 0)
                yield
                return
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        finally:
            os.close(fd)
        who = f"process {holder}" if holder else "another process"
        if not told:
            on_wait(f"{who} is at work on the same engine; waiting for it")
            told = True
        if deadline is not None and time.monotonic() > deadline:
            raise EngineBuildError(
                f"{who} has held {path.name} for more than {timeout_s:g} s",
                "Wait for the other build, or end it.",
            )
        time.sleep(_TICK_S)


def try_lock(fd: int) -> bool:
    """Take the lock of an open file or folder without waiting."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _still(fd: int, path: Path) -> bool:
    """The lock counts only while the file still has its name: it may have been cleaned away."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
