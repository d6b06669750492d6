"""A folder that others may read from: regular files below it, and nothing that only seems to be."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgetrt.errors import ConfigError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""`O_NONBLOCK`: a pipe that nobody writes to must not keep everybody waiting."""
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)
"""Links and pipes among them. Anything else may be over soon, and is no word about the file."""


_SERVED = ("metadata", "targets")
"""Whatever else lies in the folder is nobody's business."""


@dataclass(frozen=True)
class Part:
    """A part of a file; `status` as in HTTP, `size` of the whole file."""

    status: int
    size: int = 0
    data: bytes = b""


class Tree:
    """Reads parts of files below a folder; writes nothing, and follows no link.

    Args:
        root: the folder; a link to it is followed when it is opened, none below it ever is.
        look_s: how often to look whether another folder has taken its place.

    Raises:
        ConfigError: there is no such folder, or no published repository in it.
    """

    def __init__(self, root: Path, look_s: float = 5.0) -> None:
        self._path, self._look_s, self._looked_s = root, look_s, time.monotonic()
        try:
            self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(
                f"{root}: cannot be served: {error.strerror}",
                "Name the folder `public` of a repository, or a copy of it.",
            ) from error
        if self._read("metadata/timestamp.json", 0, 1).status != 200:
            self.close()
            raise ConfigError(
                f"{root}: cannot be served: no metadata/timestamp.json in it",
                "Name the folder `public` of a repository, or a copy of it; never one above.",
            )

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._root)

    def read(self, path: str, offset: int, length: int) -> Part:
        """Read at most `length` bytes from an offset; 404 for what is no file of this tree."""
        if time.monotonic() - self._looked_s >= self._look_s:
            self._look_again()
        found = self._read(path, offset, length)
        if found.status == 404 and self._look_again():
            return self._read(path, offset, length)
        return found

    def _look_again(self) -> bool:
        """Take the folder that has taken the place of this one, once a repository is in it."""
        self._looked_s = time.monotonic()
        try:
            if os.path.samestat(self._path.stat(), os.fstat(self._root)):
                return False
            other = Tree(self._path, self._look_s)
        except (OSError, ConfigError):  # it is just being replaced
            return False
        self._root, other._root = other._root, self._root
        other.close()
        return True

    def _read(self, path: str, offset: int, length: int) -> Part:
        names = path.split("/")
        if names[0] not in _SERVED:
            return Part(404)
        if any(name in ("", ".", "..") or "\0" in name for name in names):
            return Part(404)
        try:
            with self._opened(names) as file:
                found = os.fstat(file)
                if not stat.S_ISREG(found.st_mode):
                    return Part(404)
                if offset > found.st_size:
                    return Part(416, found.st_size)
                return Part(200, found.st_size, _read(file, offset, length))
        except OSError as error:
            return Part(404 if error.errno in _NOT_THERE else 503)
        except ValueError:  # no name that a file could have
            return Part(404)

    @contextlib.contextmanager
    def _opened(self, names: list[str]) -> Iterator[int]:
        """Open a file step by step, so that no link on the way leads elsewhere."""
        with contextlib.ExitStack() as stack:
            at = self._root
            for name in names[:-1]:
                at = os.open(name, _FOLDER, dir_fd=at)
                stack.callback(os.close, at)
            file = os.open(names[-1], _FILE, dir_fd=at)
            stack.callback(os.close, file)
            yield file


def _read(file: int, offset: int, length: int) -> bytes:
    pieces = []
    while length > 0 and (piece := os.pread(file, length, offset)):
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return b"".join(pieces)
