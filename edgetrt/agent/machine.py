"""What the system says about itself: memory, disk, clock."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edgetrt.agent.entry import EARLIEST_S
from edgetrt.wire import MachineReport


def machine(state_folder: Path | None, proc: Path = Path("/proc")) -> MachineReport:
    """Memory, and the disk that the agent's state is on."""
    memory = _memory(proc)
    total, free = _disk(state_folder)
    return MachineReport(
        memory_total=memory.get("MemTotal"),
        memory_available=memory.get("MemAvailable"),
        disk_total=total,
        disk_free=free,
    )


def synced(wall: float, run: Path = Path("/run")) -> bool | None:
    """Whether the clock was set from the network since this boot; None when nothing tells.

    systemd-timesyncd says so with a file. No system call is used: those that ask the kernel are among
    the ones that a service which may not set the clock is refused.
    """
    if wall < EARLIEST_S:
        return False
    folder = run / "systemd" / "timesync"
    return (folder / "synchronized").exists() if folder.is_dir() else None


def _memory(proc: Path) -> dict[str, int]:
    try:
        text = (proc / "meminfo").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return {}
    return {
        name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)
    }


def _disk(folder: Path | None) -> tuple[int | None, int | None]:
    """Total and free bytes; of the nearest folder above when it does not exist yet."""
    for place in () if folder is None else (folder, *folder.parents):
        try:
            found = os.statvfs(place)
        except OSError:
            continue
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    return None, None
