"""The seal of a cache entry: a keyed digest that only this device's service user can make.

An engine is native code; whoever can change one can run anything. The cache's folder is private, and
the seal tells a change made past it (another disk, a restored backup, an engine carried over).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from typing import TYPE_CHECKING

from edgetrt.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

_KEY_SIZE = 32
_CONTEXT = b"edgetrt engine cache 1\0"


def load_key(path: Path) -> bytes:
    """Read the device's key, making it on first use.

    Raises:
        ConfigError: others may read it, or it is not a key.
    """
    if not path.exists():
        _make(path)
    mode, key = path.stat().st_mode, path.read_bytes()
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(
            f"{path}: mode {stat.S_IMODE(mode):04o} lets others read the key, expected 0600",
            f"Delete it and deploy again; whoever read it could have forged engines: rm {path}",
        )
    if len(key) != _KEY_SIZE:
        raise ConfigError(
            f"{path}: {len(key)} bytes, expected {_KEY_SIZE}",
            f"Delete it and deploy again: rm {path}",
        )
    return key


def make_seal(key: bytes, fingerprint: str, manifest: bytes) -> bytes:
    """HMAC-SHA256 in hex over a manifest and the name it is stored under."""
    message = _CONTEXT + fingerprint.encode("ascii") + b"\0" + manifest
    return hmac.new(key, message, hashlib.sha256).hexdigest().encode("ascii")


def holds(key: bytes, fingerprint: str, manifest: bytes, seal: bytes) -> bool:
    """True when `seal` was made with this key for this manifest and name."""
    return hmac.compare_digest(make_seal(key, fingerprint, manifest), seal.strip())


def _make(path: Path) -> None:
    """Write a fresh key whole, or leave the one that another process was faster to write."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, secrets.token_bytes(_KEY_SIZE))
        os.fsync(fd)
        os.link(fresh, path)
    except FileExistsError:
        return
    finally:
        os.close(fd)
        fresh.unlink()
