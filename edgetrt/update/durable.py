"""Files that are whole after a power cut: written beside, flushed, renamed over."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_MOST_LINKS = 40
"""On one path, as path_resolution(7) has it."""


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
    """Make a folder and those above it; root makes them as the one that `as_owner` finds.

    Its group may look; what only its owner may read has a mode of its own.
    """
    with as_owner(path):
        path.mkdir(parents=True, exist_ok=True, mode=mode)


@contextlib.contextmanager
def as_owner(path: Path) -> Iterator[None]:
    """Let root work on somebody's path as that somebody: a link planted there leads root nowhere.

    The whole process becomes the owner of the first name on the path that is not root's: up to there
    root alone says where it leads, and behind it that owner does, who may change it at any moment.
    """
    owner = _first_owner(path) if os.geteuid() == 0 else None
    if owner is None:
        yield
        return
    gid, groups = os.getegid(), os.getgroups()
    try:
        os.setgroups([])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
        yield
    finally:
        os.seteuid(0)  # before the groups: only root may choose them
        os.setegid(gid)
        os.setgroups(groups)


def _first_owner(path: Path) -> os.stat_result | None:
    """What the first name on a path that is not root's is; None = they are root's, or not there.

    Links on the way are followed when they are root's own.

    Raises:
        OSError: they lead in a circle.
    """
    here, ahead, links = Path("/"), [*reversed(path.absolute().parts[1:])], 0
    while ahead:
        name = ahead.pop()
        if name == "..":
            here = here.parent
            continue
        here = here / name
        try:
            found = here.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if found.st_uid != 0:
            return found
        if stat.S_ISLNK(found.st_mode):
            if (links := links + 1) > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = here.readlink()
            ahead += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            here = Path("/") if target.is_absolute() else here.parent
    return None


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
