"""Brings one file here: resumed, never longer or other than promised, whole or not at all.

While it comes, three files stand for it: `<sha256>.part` with its full size taken from the disk at
once, `<sha256>.at` saying how much of it is certainly on the disk, and nothing under its own name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgetrt.errors import DigestError, EdgetrtError, UnreachableError, UpdateError
from edgetrt.update import durable
from edgetrt.update.origin import CHUNK, Origin

SYNC_BYTES = 32 << 20
"""How much a power cut can cost."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Wanted:
    """A file by its content.

    Attributes:
        path: of the file at every origin.
        sha256: hexadecimal.
        length: in bytes.
    """

    path: str
    sha256: str
    length: int


def fetch(
    wanted: Wanted,
    origins: Sequence[Origin],
    folder: Path,
    progress: Progress = lambda *_: None,
    keep_free: int = 0,
) -> Path:
    """Bring a file into `folder`, from the first origin that has it right.

    Args:
        wanted: which.
        origins: mirrors of each other, the preferred one first.
        folder: gets `<sha256>`; what was fetched before counts.
        progress: is told bytes here and bytes in all.
        keep_free: bytes that must stay free besides.

    Returns:
        The file, on the disk.

    Raises:
        UnreachableError: no origin delivered; what came is kept for the next attempt.
        DigestError: every origin that delivered sent something else.
        UpdateError: no origin has it, there is no room, or the disk fails.
    """
    done = folder / wanted.sha256
    if done.exists():
        return done
    folder.mkdir(parents=True, exist_ok=True)
    failures: list[EdgetrtError] = []
    for origin in origins:
        try:
            with _Part(folder, wanted, keep_free) as part:
                _fill(part, origin, progress)
                return part.finish(done)
        except OSError as error:
            raise _disk(error, folder, wanted.length) from error
        except UpdateError as error:
            failures.append(error)
    raise _worst(failures)


def forget(folder: Path, *keep: str) -> None:
    """Remove what was fetched, and what was begun, but for the digests to keep."""
    for path in folder.glob("*"):
        if path.name.partition(".")[0] not in keep:
            durable.remove(path)


def _fill(part: _Part, origin: Origin, progress: Progress) -> None:
    """Read the rest of a part; a server that knows no ranges sends all of it again."""
    wanted = part.wanted
    where = f"{origin.name}{wanted.path}"
    with origin.get(wanted.path, part.at) as reply:
        if reply.status == 416 and part.at:
            part.restart()
            return _fill(part, origin, progress)
        if reply.status not in (200, 206):
            raise _status(where, reply.status)
        if reply.offset != part.at:
            part.restart()
        rest = wanted.length - part.at
        if reply.length is not None and reply.length != rest:
            raise _length(where, wanted.length, part.at + reply.length)
        for chunk in reply.chunks:
            if part.at + len(chunk) > wanted.length:
                raise _length(where, wanted.length, None)
            part.write(chunk)
            progress(part.at, wanted.length)
    if part.at < wanted.length:
        raise UnreachableError(
            f"{where}: ended after {part.at} of {wanted.length} bytes",
            "It goes on from there at the next attempt.",
            "lost",
        )
    if part.digest != wanted.sha256:
        resumed, got = part.resumed, part.digest
        part.restart()
        if resumed:  # what was here before may be at fault
            return _fill(part, origin, progress)
        raise DigestError(
            f"{where}: sha256 {got[:16]}…, expected {wanted.sha256[:16]}…",
            "This server holds another file: publish again, or look who changed it.",
            "digest",
        )
    return None


class _Part:
    """A file that is not complete yet."""

    def __init__(self, folder: Path, wanted: Wanted, keep_free: int) -> None:
        self.wanted = wanted
        self._path = folder / f"{wanted.sha256}.part"
        self._mark = folder / f"{wanted.sha256}.at"
        self._keep_free = keep_free
        self.at = self._synced = 0
        self.resumed = False

    def __enter__(self) -> _Part:
        self._file = self._open()
        try:
            self._reserve()
            self._recall()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not self._file.closed:
            with self._file, contextlib.suppress(OSError):
                if self.at > self._synced:
                    self._sync()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._hash.update(chunk)
        self.at += len(chunk)
        if self.at - self._synced >= SYNC_BYTES:
            self._sync()

    def restart(self) -> None:
        """Begin at the first byte."""
        self._file.seek(0)
        self._hash = hashlib.sha256()
        self.at = self._synced = 0
        self.resumed = False
        self._mark.unlink(missing_ok=True)

    def finish(self, path: Path) -> Path:
        """Give the file its name."""
        os.fsync(self._file.fileno())
        self._file.close()
        self._path.replace(path)
        self._mark.unlink(missing_ok=True)
        durable.flush(path.parent)
        return path

    def _open(self) -> IO[bytes]:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        return os.fdopen(fd, "r+b", buffering=0)

    def _reserve(self) -> None:
        """Take the room from the disk before the first byte comes."""
        stat, have = os.fstatvfs(self._file.fileno()), os.fstat(self._file.fileno())
        missing = max(0, self.wanted.length - have.st_blocks * 512)
        if stat.f_bavail * stat.f_frsize < missing + self._keep_free:
            raise OSError(errno.ENOSPC, "No space left on device")
        if have.st_size != self.wanted.length:
            os.ftruncate(self._file.fileno(), self.wanted.length)
        if self.wanted.length:
            os.posix_fallocate(self._file.fileno(), 0, self.wanted.length)

    def _recall(self) -> None:
        """Go on behind what is certainly on the disk; it is hashed again."""
        self._hash = hashlib.sha256()
        with contextlib.suppress(OSError, ValueError):
            known = min(int(self._mark.read_text("ascii")), self.wanted.length)
            while self.at < known:
                chunk = self._file.read(min(CHUNK, known - self.at))
                self._hash.update(chunk)
                self.at += len(chunk)
        self._file.seek(self.at)
        self._synced = self.at
        self.resumed = self.at > 0

    def _sync(self) -> None:
        os.fdatasync(self._file.fileno())
        durable.replace(self._mark, str(self.at).encode("ascii"))
        self._synced = self.at


def _worst(failures: list[EdgetrtError]) -> EdgetrtError:
    """What to tell: as long as one origin may still deliver, that it did not yet."""
    for kind in (UnreachableError, DigestError):
        for failure in failures:
            if isinstance(failure, kind):
                return failure
    return failures[-1] if failures else UpdateError("no origin is configured", "", "not-found")


def _status(where: str, status: int) -> UpdateError:
    if status >= 500 or status in (408, 429):
        return UnreachableError(f"{where}: HTTP {status}", "It is tried again.", "unreachable")
    return UpdateError(f"{where}: HTTP {status}", "Publish the release there as well.", "not-found")


def _length(where: str, wanted: int, got: int | None) -> DigestError:
    told = "more" if got is None else f"{got}"
    return DigestError(
        f"{where}: {told} bytes, expected {wanted}",
        "This server holds another file: publish again, or look who changed it.",
        "length",
    )


def _disk(error: OSError, folder: Path, length: int) -> UpdateError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UpdateError(
            f"{folder}: no room for {length / 1e6:.1f} MB", "Free some space on this disk.", "space"
        )
    return UpdateError(f"{folder}: {error.strerror or error}", "Look at this disk.", "disk")
