"""What the runtime's unit lets through: each node and folder it needs, opened inside its own sandbox.

`examine` runs `look` in a transient unit with the properties of the installed one, drop-ins included,
and names for each refusal the directive that refuses.
"""

from __future__ import annotations

import errno
import grp
import json
import os
import stat
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgetrt.doctor import Finding
from edgetrt.dropins import NODES, network
from edgetrt.errors import EdgetrtError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

UNIT = "edgetrt-runtime.service"
MEND = "sudo edgetrt doctor --sandbox --write"
INSIDE = "EDGETRT_INSIDE"
"""Environment variable that tells `edgetrt doctor --sandbox` that it is the one inside."""

SOCKETS = ("tmp/argus_socket",)
"""Of daemons that serve cameras."""

FOLDERS = ("var/lib/edgetrt", "run/edgetrt")
"""Where the runtime writes."""

READ = ("sys/devices/system/cpu/online", "sys/firmware/devicetree/base/model", "proc/meminfo")

_ABOUT_THE_PROCESS = (
    "Exec", "Type", "Restart", "Watchdog", "Timeout", "NotifyAccess", "OOMScoreAdjust",
    "RuntimeDirectoryPreserve", "SuccessExitStatus",
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """One attempt to open something: `error` is errno's number, 0 when it went well."""

    path: str
    error: int


def look(root: Path = Path("/")) -> list[Look]:
    """Open everything that is there, as far as this process may see."""
    found = [
        *_expand(root, (*NODES, *SOCKETS), os.O_RDWR | os.O_NONBLOCK),
        *_expand(root, READ, os.O_RDONLY),
    ]
    return found + [
        Look(f"/{name}", 0 if os.access(root / name, os.W_OK) else errno.EROFS)
        for name in FOLDERS
        if (root / name).is_dir()
    ]


def _expand(root: Path, patterns: Iterable[str], flags: int) -> Iterator[Look]:
    for pattern in patterns:
        for path in sorted(root.glob(pattern)):
            if not stat.S_ISDIR(path.stat().st_mode):
                yield Look(f"/{path.relative_to(root)}", _open(path, flags))


def _open(path: Path, flags: int) -> int:
    if path.is_socket():
        return 0 if os.access(path, os.W_OK) else errno.EACCES
    try:
        os.close(os.open(path, flags | os.O_CLOEXEC))
    except OSError as error:
        # A busy or absent device answers for itself: nothing refused us.
        return 0 if error.errno in (errno.EBUSY, errno.ENODEV, errno.ENXIO) else error.errno or 0
    return 0


def judge(outside: Iterable[Look], inside: Iterable[Look]) -> list[Finding]:
    """Compare what root opens with what the unit does; one finding for each thing that is there."""
    seen = {entry.path: entry.error for entry in inside}
    return [_judge(entry, seen.get(entry.path)) for entry in outside]


def _judge(outside: Look, inside: int | None) -> Finding:
    path = outside.path
    if inside == 0:
        return Finding(path, "ok", "open to the runtime")
    if outside.error:
        return Finding(path, "problem", f"not even root opens it: {os.strerror(outside.error)}")
    why = "not visible" if inside is None else os.strerror(inside)
    return Finding(path, "problem", f"closed to the runtime: {why}", _directive(path, inside))


def _directive(path: str, error: int | None) -> str:
    """Which line of the unit to relax, in words for `systemctl edit`."""
    if error is None:
        hidden = {"/dev": "PrivateDevices=no", "/tmp": "PrivateTmp=no", "/pro": "ProcSubset=all"}  # noqa: S108
        line = hidden.get(path[:4], f"BindReadOnlyPaths={path}")
    elif error == errno.EPERM:
        line = f"DeviceAllow={path} rw"
    elif error == errno.EROFS:
        line = f"ReadWritePaths={path}"
    else:
        line = f"SupplementaryGroups={_group(path)}"
    mend = f"{MEND}, or " if line.startswith("DeviceAllow") else ""
    return f"{mend}sudo systemctl edit {UNIT}, and under [Service]: {line}"


def _group(path: str) -> str:
    try:
        return grp.getgrgid(Path(path).stat().st_gid).gr_name
    except (OSError, KeyError):
        return f"(the group of {path})"


def properties(unit_text: str) -> list[str]:
    """`systemctl cat`'s text as `systemd-run -p` arguments: the sandbox without the process."""
    section, lines = "", []
    for line in unit_text.splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith(("#", ";")):
            key = line.split("=")[0]
            if not key.startswith(_ABOUT_THE_PROCESS):
                lines.append(line)
    return lines


def reach(sources: Iterable[str], lines: Iterable[str]) -> Finding:
    """Whether the unit, as `properties` gives it, lets sources have the network that they need."""
    needs = bool(network(sources))
    shut = [line for line in lines if line.startswith("PrivateNetwork=")][-1:] == [
        "PrivateNetwork=yes"
    ]
    if needs and shut:
        return Finding("network", "problem", "shut, and a pipeline's source is a stream", MEND)
    return Finding("network", "ok", "shut" if shut else "open" if needs else "open without need")


def examine(sources: Iterable[str]) -> list[Finding]:
    """Look from both sides.

    Args:
        sources: of every pipeline.

    Raises:
        EdgetrtError: no systemd, no such unit, or no rights to start one.
    """
    text = _run(["systemctl", "cat", "--no-pager", UNIT])
    transient = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--setenv={INSIDE}=1"]
    lines = properties(text)
    transient += [f"--property={line}" for line in lines]
    # The runtime itself may be at work in the same folder.
    transient += ["--property=RuntimeDirectoryPreserve=yes"]
    said = _run([*transient, "/usr/bin/edgetrt", "doctor", "--sandbox", "--json"])
    seen = [Look(**entry) for entry in json.loads(said)]
    return [*judge(look(), seen), reach(sources, lines)]


def inside() -> list[dict[str, object]]:
    """What the process inside reports."""
    return [asdict(entry) for entry in look()]


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EdgetrtError(
            f"sandbox: {command[0]} does not work here: {error}",
            "This needs systemd, and the package installed.",
        ) from error
    if done.returncode:
        raise EdgetrtError(
            f"sandbox: {command[0]} ended with {done.returncode}: {done.stderr.strip()[-300:]}",
            "Run it as root on a machine with the package: sudo edgetrt doctor --sandbox",
        )
    return done.stdout
