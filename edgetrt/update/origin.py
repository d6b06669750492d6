"""Where files of a repository come from: a web server or mirror, or a bundle on a stick."""

from __future__ import annotations

import contextlib
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgetrt.errors import ConfigError, UnreachableError, UpdateError

CHUNK = 1 << 18


@dataclass(frozen=True)
class Limits:
    """How long a server may take.

    Attributes:
        answer_s: from the first packet to the end of the headers.
        gap_s: between two pieces of the content.
        window_s: how often the rate is looked at.
        window_bytes: how much must have come in each window.
    """

    answer_s: float = 30.0
    gap_s: float = 30.0
    window_s: float = 60.0
    window_bytes: int = 60 * 1024


@dataclass(frozen=True)
class Reply:
    """An answer that has begun.

    Attributes:
        status: as in HTTP.
        offset: of the first byte; 0 where the whole file comes although a part was asked for.
        length: bytes that are said to follow; None when it is not said.
        chunks: the bytes.
    """

    status: int
    offset: int
    length: int | None
    chunks: Iterator[bytes]


class Origin(Protocol):
    """A tree of files that can be read from any offset."""

    @property
    def name(self) -> str:
        """For messages."""

    def get(self, path: str, offset: int = 0) -> contextlib.AbstractContextManager[Reply]:
        """Ask for a file.

        Raises:
            UnreachableError: no answer, or too slow a one; also while the chunks are read.
            UpdateError: an answer that is refused for good, such as a redirect to another host.
        """


class StallGuard:
    """Watches that enough comes in every window; a byte now and then keeps nobody waiting."""

    def __init__(self, limits: Limits, where: str) -> None:
        self._limits, self._where = limits, where
        self._since, self._got = time.monotonic(), 0

    def took(self, nbytes: int) -> None:
        """Count what came.

        Raises:
            UnreachableError: the window is over, and too little came in it.
        """
        self._got += nbytes
        now = time.monotonic()
        if now - self._since < self._limits.window_s:
            return
        if self._got < self._limits.window_bytes:
            raise UnreachableError(
                f"{self._where}: {self._got} bytes in {now - self._since:.0f} s, expected at least "
                f"{self._limits.window_bytes}",
                "Look at the link to the repository; the download goes on where it stopped.",
                "slow",
            )
        self._since, self._got = now, 0


class BundleOrigin:
    """Files of a bundle, read in place.

    Args:
        path: of the bundle, a tar.
        folder: of the bundle that stands for the root, such as `metadata`.
    """

    def __init__(self, path: Path, folder: str) -> None:
        self._path, self._folder = path, folder
        self._index = {name: at for name, at in _index(path).items() if name.startswith(folder)}

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self._path}:{self._folder}"

    @contextlib.contextmanager
    def get(self, path: str, offset: int = 0) -> Iterator[Reply]:
        """As `Origin.get`; what the bundle lacks is a 404."""
        at = self._index.get(f"{self._folder}/{path}")
        if at is None:
            yield Reply(404, 0, 0, iter(()))
            return
        start, size = at
        if offset > size:
            yield Reply(416, 0, 0, iter(()))
            return
        try:
            with self._path.open("rb") as file:
                file.seek(start + offset)
                chunks = _read(file.read, size - offset)
                yield Reply(206 if offset else 200, offset, size - offset, chunks)
        except OSError as error:
            raise UnreachableError(
                f"{self._path}: cannot be read: {error.strerror}", "Put it back.", "lost"
            ) from error


def bundle_files(path: Path, folder: str) -> dict[str, bytes]:
    """The small files of one folder of a bundle, by name.

    Raises:
        UpdateError: not a bundle.
    """
    found, index = {}, _index(path)
    with path.open("rb") as file:
        for name, (start, size) in index.items():
            if name.startswith(f"{folder}/") and size <= 1 << 20:
                file.seek(start)
                found[name.partition("/")[2]] = file.read(size)
    return found


def _index(path: Path) -> dict[str, tuple[int, int]]:
    """Where each file of a tar begins, and its size."""
    found: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(path, mode="r:") as tar:
            for member in tar:
                if len(found) > 10_000:
                    raise tarfile.ReadError("more than 10,000 files")
                if member.isreg():
                    found[member.name] = (member.offset_data, member.size)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", "Check the path.") from None
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UpdateError(
            f"{path}: not a bundle: {error}", "Make one with `edgetrt release bundle`.", "bundle"
        ) from error
    return found


def _read(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    while size > 0 and (chunk := read(min(size, CHUNK))):
        size -= len(chunk)
        yield chunk
