"""Files that are on the disk when a call returns, and reads that nobody can get between."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import stat
from typing import TYPE_CHECKING

from edgetrt.engine.manifest import StoredFile
from edgetrt.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CHUNK = 1 << 20


class ForgedError(Exception):
    """An entry is not what was stored; the cache turns it into an EngineMismatchError."""


def private_folder(folder: Path) -> None:
    """Make a folder of mode 0700, or refuse one that others can read or write."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(
            f"{folder}: mode {mode:04o}, expected 0700: engines are native code and others could"
            " change them",
            f"chmod 700 {folder}, after a look at what is in it.",
        )


def folder_size(folder: Path) -> int:
    """Bytes of a folder's files; 0 when it has just been removed."""
    with contextlib.suppress(FileNotFoundError):
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0


def store(path: Path, source: bytes | Path) -> StoredFile:
    """Write one file to the disk, not only to the cache of the kernel."""
    digest, size = hashlib.sha256(), 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        for chunk in _chunks(source):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return StoredFile(digest.hexdigest(), size)


def _chunks(source: bytes | Path) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


@contextlib.contextmanager
def held(folder: Path) -> Iterator[int]:
    """The folder itself, whatever its name is given to meanwhile."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def read_at(folder: int, name: str) -> bytes:
    """Read a file of an open folder, never through a symbolic link."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def verified(folder: int, name: str, expected: StoredFile) -> bytes:
    """Read a file once and check these bytes; nobody reads it again."""
    data = read_at(folder, name)
    got = hashlib.sha256(data).hexdigest()
    if not hmac.compare_digest(got, expected.sha256):
        raise ForgedError(
            f"{name} has {len(data)} bytes with sha256 {got[:16]}…,"
            f" expected {expected.size} with {expected.sha256[:16]}…"
        )
    return data


def flush(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    with held(folder) as fd:
        os.fsync(fd)
