"""A machine that is no Jetson: a laptop, a server, CI."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from edgetrt.types import DeviceIdentity

_TOTAL = re.compile(r"^MemTotal:\s+(\d+) kB$", re.MULTILINE)


def identify(root: Path = Path("/")) -> DeviceIdentity:
    """Read what can be read on any Linux machine.

    Args:
        root: where `/proc` and `/sys` are looked for.
    """
    architecture = platform.machine()
    name = (read_text(root / "sys/class/dmi/id/product_name") or "").strip()
    return DeviceIdentity(
        model=name or f"Linux {architecture}",
        soc=architecture,
        memory_bytes=memory_bytes(root),
    )


def memory_bytes(root: Path) -> int | None:
    """Installed memory that the kernel manages; None when it does not say."""
    found = _TOTAL.search(read_text(root / "proc/meminfo") or "")
    return int(found[1]) * 1024 if found else None


def read_text(path: Path) -> str | None:
    """Content of a small system file; None when it is not there or does not answer."""
    try:
        # Unbuffered: a sensor of a part without power says EAGAIN, which buffered readers pass on as None.
        with path.open("rb", buffering=0) as file:
            content = file.readall()
    except OSError:
        return None
    return None if content is None else content.decode("utf-8", "replace")


def read_number(path: Path) -> float | None:
    """A number in a system file; None when there is none."""
    try:
        return float((read_text(path) or "").strip())
    except ValueError:
        return None
