"""Files that are whole after a power cut: written beside, flushed, renamed over."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


def replace(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file so that its name always leads to the old bytes or to the new ones.

    What root writes belongs to whom the folder belongs: a person's word must not lock the agent out.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            give(file.fileno(), path.parent)
            os.fsync(file.fileno())
        except OSError:
            Path(file.name).unlink()
            raise
    Path(file.name).replace(path)
    flush(path.parent)


def give(file: int | Path, folder: Path) -> None:
    """Let a file that root made belong to whom a folder belongs."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(file, owner.st_uid, owner.st_gid)


def own_folder(path: Path, mode: int = 0o750) -> None:
    """Make a folder and those above it; root makes them for whom the next one above belongs.

    Its group may look; what only its owner may read has a mode of its own.
    """
    if path.is_dir():
        return
    above = next(folder for folder in path.parents if folder.is_dir())
    with as_owner(above):
        path.mkdir(parents=True, exist_ok=True, mode=mode)


@contextlib.contextmanager
def as_owner(folder: Path) -> Iterator[None]:
    """Let root work in somebody's folder as that somebody: a link planted there leads root nowhere."""
    owner = folder.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def link(path: Path, target: str) -> None:
    """Point a symbolic link somewhere else, in one step."""
    beside = path.with_name(f".new-{path.name}")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(path)
    flush(path.parent)


def flush(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def flush_file(path: Path) -> None:
    """Bring a file's bytes to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def flush_tree(folder: Path) -> None:
    """Bring everything below a folder to the disk; files with a second name are there already."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            continue
        if path.is_dir():
            flush(path)
        elif path.stat().st_nlink == 1:
            flush_file(path)
    flush(folder)


def sweep(folder: Path, prefix: str = ".new-", older_s: float = 0.0) -> None:
    """Remove what a power cut left half written.

    Where other processes write as well, only what is older than they take is certainly left.
    """
    for path in folder.glob(f"{prefix}*"):
        with contextlib.suppress(FileNotFoundError):
            if not older_s or time.time() - path.lstat().st_mtime >= older_s:
                remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder; no effect when it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
