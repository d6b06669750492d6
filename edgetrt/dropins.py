"""What a unit's sandbox lets through on this very board: drop-ins made from what is there.

The units name the devices of every Jetson that we know. Names of drivers differ between releases of Jetson
Linux, so a drop-in of each machine adds those of its own nodes. The network is shut until a pipeline's source
needs it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgetrt.errors import ConfigError

NODES = (
    "dev/nvmap",
    "dev/nvhost-*",
    "dev/nvgpu/*/*",
    "dev/nvidia*",
    "dev/dri/renderD*",
    "dev/video*",
    "dev/media*",
)
"""What CUDA, the DLA and cameras need, where a board has it."""

UNITS = "etc/systemd/system"
DEVICES, NETWORK = "devices.conf", "network.conf"
RUNTIME, BUILD = "edgetrt-runtime.service", "edgetrt-build@.service"

SHARED = ("misc", "mem")
"""Drivers whose nodes have nothing to do with each other: of those a node is allowed, not the driver."""

PRIVATE = (
    "127.0.0.0/8",
    "::1",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
    "fe80::/10",
)
"""Where a camera is that has a name instead of an address: on the site's own networks."""

_STREAM = re.compile(r"(?:rtsps?|https?|mqtts?)://", re.IGNORECASE)
_HEAD = "# Made by `edgetrt doctor --sandbox --write`, which replaces and removes it.\n"


@dataclass(frozen=True, slots=True)
class Change:
    """A file that was `written`, `removed`, or stands as it should: `kept`."""

    path: Path
    done: str


def nodes(root: Path) -> Iterator[Path]:
    """Every node of the kinds we need that this machine has."""
    for pattern in NODES:
        yield from (path for path in sorted(root.glob(pattern)) if not path.is_dir())


def devices(
    root: Path = Path("/"), status: Callable[[Path], os.stat_result] = os.stat
) -> list[str]:
    """`DeviceAllow=` lines for the nodes that are there, by driver where a driver has them all.

    Args:
        root: where `/dev` and `/proc` are looked for.
        status: tells a node's number.
    """
    names = _drivers(root)
    lines = []
    for path in nodes(root):
        found = status(path)
        driver = names.get(os.major(found.st_rdev), "") if stat.S_ISCHR(found.st_mode) else ""
        known = driver and driver not in SHARED
        lines.append(
            f"DeviceAllow=char-{driver} rw"
            if known
            else f"DeviceAllow=/{path.relative_to(root)} rw"
        )
    return sorted(set(lines))


def _drivers(root: Path) -> dict[int, str]:
    """Names of character drivers by number, from `/proc/devices`."""
    try:
        text = (root / "proc/devices").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    characters = text.partition("Block devices:")[0]
    return {int(n): name for n, name in re.findall(r"^\s*(\d+) (\S+)$", characters, re.MULTILINE)}


def network(sources: Iterable[str]) -> list[str]:
    """Lines that open the network as far as sources need it; empty when none does.

    A camera's address is opened alone. A name can mean any address, so it opens the private networks, and
    never the Internet.
    """
    hosts = {urlsplit(uri).hostname or "" for uri in sources if _STREAM.match(uri)}
    if not hosts:
        return []
    allowed: set[str] = set()
    for host in hosts:
        try:
            allowed.add(str(ipaddress.ip_address(host)))
        except ValueError:
            allowed.update(PRIVATE)
    return [
        "PrivateNetwork=no",
        "RestrictAddressFamilies=AF_INET AF_INET6",
        *(f"IPAddressAllow={address}" for address in sorted(allowed)),
    ]


def write(
    sources: Iterable[str],
    root: Path = Path("/"),
    status: Callable[[Path], os.stat_result] = os.stat,
) -> list[Change]:
    """Make the drop-ins say what this machine is now; a file that somebody else wrote is left alone.

    Args:
        sources: of every pipeline, as people write them.
        root: where everything is looked for.
        status: tells a node's number.

    Raises:
        ConfigError: a drop-in cannot be written.
    """
    found, open_to = devices(root, status), network(sources)
    return [
        _put(root / UNITS / f"{RUNTIME}.d" / DEVICES, found),
        _put(root / UNITS / f"{BUILD}.d" / DEVICES, found),
        _put(root / UNITS / f"{RUNTIME}.d" / NETWORK, open_to),
    ]


def _put(path: Path, lines: list[str]) -> Change:
    text = _HEAD + "[Service]\n" + "".join(f"{line}\n" for line in lines) if lines else ""
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if before == text or (before and not before.startswith(_HEAD)):
            return Change(path, "kept")
        if not text:
            path.unlink()
            return Change(path, "removed")
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written: {error.strerror}",
            "Run it as root: sudo edgetrt doctor --sandbox --write",
        ) from error
    return Change(path, "written")
