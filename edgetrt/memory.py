"""What this process takes."""

from __future__ import annotations

import re
from pathlib import Path

_RESIDENT = re.compile(r"^VmRSS:\s+(\d+) kB$", re.MULTILINE)


def resident_bytes(proc: Path = Path("/proc")) -> int | None:
    """Resident memory of this process; None where the system does not tell."""
    try:
        found = _RESIDENT.search((proc / "self/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
