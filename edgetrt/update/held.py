"""What is in the way of every update, in a small file: for people of this machine, who see no broker.

That an assignment waits before anybody could verify it, for instance. Nothing else is kept of such a
one, and no word of it is in that file.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from edgetrt.update import durable

_FILE, _MODE = "held", 0o640


def write(folder: Path, why: str) -> None:
    """Say what it is; empty = nothing is. A disk that does not take it stops nothing.

    Args:
        folder: of updates.
        why: in words.
    """
    if why == read(folder):
        return
    with contextlib.suppress(OSError):
        if why:
            durable.replace(folder / _FILE, why.encode(), _MODE)
        else:
            (folder / _FILE).unlink(missing_ok=True)


def read(folder: Path) -> str:
    """What it is; empty = nothing, as far as whoever works on updates has said."""
    try:
        return (folder / _FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
