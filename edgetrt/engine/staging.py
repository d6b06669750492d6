"""Folders that are being filled, and what is left of them when their process was killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from typing import TYPE_CHECKING

from edgetrt.engine import locks
from edgetrt.engine.durable import held

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PREFIX = ".tmp-"


def fresh_name(root: Path) -> Path:
    """A name that nobody else uses and that `sweep` knows."""
    return root / f"{_PREFIX}{os.getpid()}-{time.monotonic_ns()}"


@contextlib.contextmanager
def folder(root: Path) -> Iterator[Path]:
    """A fresh folder on the same file system, locked as long as it is being filled, then removed."""
    fresh = fresh_name(root)
    with locks.exclusive(root / ".locks" / "sweep"):
        fresh.mkdir(mode=0o700)
        fd = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        locks.try_lock(fd)
    try:
        yield fresh
    finally:
        os.close(fd)
        shutil.rmtree(fresh, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove folders that a killed process left behind: nobody holds their lock."""
    with locks.exclusive(root / ".locks" / "sweep"):
        for left in root.glob(f"{_PREFIX}*"):
            with contextlib.suppress(FileNotFoundError), held(left) as fd:
                if locks.try_lock(fd):
                    shutil.rmtree(left, ignore_errors=True)
