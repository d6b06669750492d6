"""The number of this start of the agent: from a stored counter, because clocks go back."""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path

from edgetrt.agent.entry import EARLIEST_S

_log = logging.getLogger(__name__)


def next_epoch(folder: Path | None, now_ms: int) -> int:
    """Count one start of the agent; what is returned was never returned before.

    The first start, and one whose counter was lost, begins at the time in milliseconds. So does one
    whose counter cannot be stored: the next start must not use the same number again.

    Args:
        folder: where the counter is kept; None = nowhere.
        now_ms: since 1970.
    """
    stored = None if folder is None else _read(folder / "epoch")
    epoch = _from_clock(now_ms) if stored is None else stored + 1
    if folder is not None and _write(folder / "epoch", epoch):
        return epoch
    return max(epoch, _from_clock(now_ms))


def _from_clock(now_ms: int) -> int:
    """The time; a clock that was not set gives the same numbers at each boot, so chance helps."""
    return now_ms if now_ms >= EARLIEST_S * 1000 else now_ms + random.getrandbits(40)


def _read(path: Path) -> int | None:
    try:
        stored = int(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.warning("epoch counter %s: cannot be read, starts anew: %s", path, error)
        return None
    return stored if 0 < stored < 2**53 else None


def _write(path: Path, epoch: int) -> bool:
    """Store the counter, so that it outlives a power cut."""
    fresh = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("w", encoding="ascii") as file:
            file.write(f"{epoch}\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        _log.warning("epoch counter %s: cannot be stored: %s", path, error)
        return False
    return True
