"""What a cache entry says of itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = 1


class StoredFile(msgspec.Struct, frozen=True):
    """One file of an entry."""

    sha256: str
    size: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an entry is.

    Attributes:
        schema: of this file.
        fingerprint: name of the entry.
        main: the file that a backend loads.
        files: by name.
        created_at: UTC, ISO 8601.
        fields: what the fingerprint was made from.
        info: what else is known: name of the model, accuracy, placement, timings.
    """

    schema: int = SCHEMA
    fingerprint: str
    main: str
    files: dict[str, StoredFile]
    created_at: str
    fields: dict[str, Any] = {}
    info: dict[str, Any] = {}

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(file.size for file in self.files.values())


@dataclass(frozen=True)
class Engine:
    """A verified engine.

    Attributes:
        manifest: what it is.
        data: the bytes of its main file, which were verified; hand these to the backend.
        path: where it lies; for messages, and for a backend that cannot load bytes use `pinned`.
    """

    manifest: Manifest
    data: bytes
    path: Path

    @contextlib.contextmanager
    def pinned(self) -> Iterator[Path]:
        """A path whose content is `data` and cannot change: memory with a name, gone at the end."""
        fd = os.memfd_create(self.path.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with os.fdopen(fd, "wb") as file:
            file.write(self.data)
            file.flush()
            sealed = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, sealed)
            yield Path(f"/proc/{os.getpid()}/fd/{fd}")


@dataclass(frozen=True)
class Entry:
    """A row of the cache's list; `problem` is empty when the manifest and its seal are good."""

    fingerprint: str
    size: int
    used_s: float
    manifest: Manifest | None
    problem: str = ""
