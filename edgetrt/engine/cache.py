"""Engines by fingerprint: stored whole or not at all, and verified in the very bytes that are used.

    <root>/<fingerprint>/engine.plan | model.onnx …   what runs, and what belongs to it
                         manifest.json                what it is, readable; digests of all files
                         manifest.seal                keyed digest of the manifest
    <root>/.aside/       entries that did not verify
    <root>/.locks/       one file per engine that is being built
    <root>/.timing/      measured kernel times, per toolchain and device
    <root>.key           the key, readable by the service user only

A put writes into a folder of another name, flushes it, and renames it: after a power cut there is
either the whole entry or none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgetrt.engine import locks, seal, staging
from edgetrt.engine.durable import (
    ForgedError,
    flush,
    folder_size,
    held,
    private_folder,
    read_at,
    store,
    verified,
)
from edgetrt.engine.manifest import Engine, Entry, Manifest
from edgetrt.errors import ConfigError, EngineBuildError, EngineMismatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from edgetrt.engine.fingerprint import Toolchain
    from edgetrt.types import DeviceIdentity

MANIFEST, SEAL = "manifest.json", "manifest.seal"
_DECODER = msgspec.json.Decoder(Manifest)
_RESERVE = 4 << 20
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Cache:
    """A folder of engines, private to the user who runs them.

    Args:
        root: the folder; made when missing.
        key_file: the key of the seals; beside `root` when not given.
        free_bytes: gives the free space of a folder's file system.

    Raises:
        ConfigError: folder or key are open to others.
    """

    def __init__(
        self,
        root: Path,
        key_file: Path | None = None,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self.root = root
        self._free_bytes = free_bytes
        try:
            private_folder(root)
            for name in (".aside", ".locks", ".timing"):
                private_folder(root / name)
            self._key = seal.load_key(key_file or root.with_name(f"{root.name}.key"))
        except OSError as error:
            raise ConfigError(
                f"{root}: engine cache cannot be used: {error.strerror}: {error.filename}",
                "Run as the user whom the cache belongs to (sudo -u edgetrt …), or choose another"
                " folder with EDGETRT_CACHE.",
            ) from error

    def put(
        self,
        fingerprint: str,
        files: Mapping[str, bytes | Path],
        main: str,
        fields: Mapping[str, Any] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Store an engine; one of the same name is replaced.

        Raises:
            EngineBuildError: not enough space; the cache is as it was.
        """
        _check_names(fingerprint, files, main)
        size = sum(_size(source) for source in files.values())
        free = self._free_bytes(self.root)
        if free < size + _RESERVE:
            raise self._no_space(size, free)
        try:
            staging.sweep(self.root)
            with staging.folder(self.root) as fresh:
                manifest = Manifest(
                    fingerprint=fingerprint,
                    main=main,
                    files={name: store(fresh / name, source) for name, source in files.items()},
                    created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    fields=dict(fields or {}),
                    info=dict(info or {}),
                )
                self._seal(fresh, manifest)
                self._move_in(fresh, fingerprint)
        except OSError as error:
            raise self._explain(error, size) from error
        return manifest

    def open(self, fingerprint: str) -> Engine:
        """Read an engine and verify what was read; every file of it is checked.

        Raises:
            EngineMismatchError: it is not here, or it was changed; then it is moved aside.
        """
        folder = self._entry(fingerprint)
        try:
            with held(folder) as fd:
                manifest = self._manifest(fd, fingerprint)
                data = {name: verified(fd, name, file) for name, file in manifest.files.items()}
        except FileNotFoundError as error:
            if not folder.is_dir():
                raise self._absent(fingerprint) from error
            raise self._aside(folder, f"{error.filename} is missing") from error
        except (ForgedError, OSError) as error:
            raise self._aside(folder, str(error)) from error
        with contextlib.suppress(OSError):  # when it was used last is good to know, no more
            os.utime(folder)
        return Engine(manifest, data[manifest.main], folder / manifest.main)

    def get(self, fingerprint: str) -> Manifest | None:
        """Manifest of an entry whose seal holds, else None; files are checked by `open`."""
        try:
            with held(self._entry(fingerprint)) as fd:
                return self._manifest(fd, fingerprint)
        except (OSError, ForgedError):
            return None

    def ls(self) -> list[Entry]:
        """All entries, the one used last first."""
        rows = [self._row(folder) for folder in self.root.iterdir() if _named(folder)]
        return sorted(rows, key=lambda row: row.used_s, reverse=True)

    def rm(self, fingerprint: str) -> None:
        """Remove an entry.

        Raises:
            EngineMismatchError: there is none of that name.
        """
        folder = self._entry(fingerprint)
        gone = staging.fresh_name(self.root)
        try:
            folder.rename(gone)
        except FileNotFoundError as error:
            raise self._absent(fingerprint) from error
        shutil.rmtree(gone, ignore_errors=True)  # a sweep may be at it already
        flush(self.root)

    def gc(
        self,
        max_bytes: int | None = None,
        max_age_s: float | None = None,
        keep: Collection[str] = (),
        now_s: float | None = None,
    ) -> list[Entry]:
        """Remove what was not used for long, then the longest unused until the rest fits.

        Args:
            max_bytes: size of all entries together.
            max_age_s: since the last use; also for what was moved aside.
            keep: fingerprints that stay, however old.
            now_s: the time; the clock's when not given.

        Returns:
            The removed entries.
        """
        now = time.time() if now_s is None else now_s
        staging.sweep(self.root)
        rows = self.ls()
        total, removed = sum(row.size for row in rows), []
        for row in reversed(rows):
            old = max_age_s is not None and now - row.used_s > max_age_s
            big = max_bytes is not None and total > max_bytes
            if (old or big) and row.fingerprint not in keep:
                self.rm(row.fingerprint)
                total -= row.size
                removed.append(row)
        for folder in (self.root / ".aside").iterdir():
            if max_age_s is not None and now - folder.stat().st_mtime > max_age_s:
                shutil.rmtree(folder)
        return removed

    @contextlib.contextmanager
    def lock(
        self,
        fingerprint: str,
        on_wait: Callable[[str], None] = lambda _: None,
        timeout_s: float | None = None,
    ) -> Iterator[None]:
        """Be the only one to build this engine; look into the cache again once you have it."""
        self._entry(fingerprint)
        with locks.exclusive(self.root / ".locks" / fingerprint, on_wait, timeout_s):
            yield

    def timing_cache(self, toolchain: Toolchain, device: DeviceIdentity) -> Path:
        """File for the kernel times that this toolchain measures on this device."""
        parts = (
            toolchain.flavour,
            toolchain.version,
            toolchain.cuda or "cuda",
            device.part_number or device.soc or "device",
            device.compute_capability or "gpu",
        )
        return self.root / ".timing" / re.sub(r"[^A-Za-z0-9.-]+", "_", "-".join(parts))

    def _entry(self, fingerprint: str) -> Path:
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise EngineMismatchError(
                f"{fingerprint!r} is no fingerprint, expected 64 hexadecimal digits",
                "See `edgetrt engines ls`.",
            )
        return self.root / fingerprint

    def _manifest(self, fd: int, fingerprint: str) -> Manifest:
        """Read a manifest and check its seal before anything in it is believed."""
        text = read_at(fd, MANIFEST)
        if not seal.holds(self._key, fingerprint, text, read_at(fd, SEAL)):
            raise ForgedError("its manifest does not carry this device's seal")
        try:
            return _DECODER.decode(text)
        except msgspec.DecodeError as error:
            raise ForgedError(f"its manifest is of another version: {error}") from error

    def _seal(self, fresh: Path, manifest: Manifest) -> None:
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        store(fresh / MANIFEST, text)
        store(fresh / SEAL, seal.make_seal(self._key, manifest.fingerprint, text))
        flush(fresh)

    def _row(self, folder: Path) -> Entry:
        size, used = folder_size(folder), 0.0
        try:
            used = folder.stat().st_mtime
            with held(folder) as fd:
                return Entry(folder.name, size, used, self._manifest(fd, folder.name))
        except (OSError, ForgedError) as error:
            return Entry(folder.name, size, used, None, str(error))

    def _absent(self, fingerprint: str) -> EngineMismatchError:
        return EngineMismatchError(
            f"{self.root}: no engine {fingerprint[:12]}", "Deploy the model on this device."
        )

    def _aside(self, folder: Path, why: str) -> EngineMismatchError:
        """Take a bad entry out of use and keep it for whoever wants to know."""
        aside = self.root / ".aside" / f"{folder.name}.{time.time_ns()}"
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            folder.rename(aside)
        return EngineMismatchError(
            f"engine {folder.name[:12]} does not verify: {why}",
            f"It was not loaded and lies in {aside} now; deploy the model again.",
        )

    def _explain(self, error: OSError, size: int) -> EngineBuildError:
        if error.errno in _FULL:
            return self._no_space(size, self._free_bytes(self.root))
        return EngineBuildError(
            f"{self.root}: engine cannot be stored: {error.strerror}: {error.filename}",
            "Check the rights of the folder and the health of the disk.",
        )

    def _no_space(self, size: int, free: int) -> EngineBuildError:
        return EngineBuildError(
            f"{self.root}: no space for an engine: {size + _RESERVE} bytes needed, {free} free",
            "Make room: edgetrt engines gc --max-size 1G. The cache is unchanged.",
        )

    def _move_in(self, fresh: Path, fingerprint: str) -> None:
        """Rename a finished folder to its name, taking away an older one of that name first."""
        target = self.root / fingerprint
        while True:
            try:
                fresh.rename(target)
                break
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
            with contextlib.suppress(EngineMismatchError):  # gone already: try again
                self.rm(fingerprint)
        flush(self.root)


def default_root(environ: Mapping[str, str] | None = None) -> Path:
    """`$EDGETRT_CACHE`, the service's folder where there is one, else the user's cache."""
    environ = os.environ if environ is None else environ
    if chosen := environ.get("EDGETRT_CACHE"):
        return Path(chosen)
    service = Path("/var/lib/edgetrt/engines")
    if os.access(service, os.W_OK):
        return service
    cache = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "edgetrt" / "engines"


def _check_names(fingerprint: str, files: Mapping[str, bytes | Path], main: str) -> None:
    bad = [n for n in files if not _FILE_NAME.fullmatch(n) or n in {MANIFEST, SEAL}]
    if not _FINGERPRINT.fullmatch(fingerprint) or bad or main not in files:
        raise EngineBuildError(
            f"engine {fingerprint[:12]!r}: files {sorted(files)} with main file {main!r} cannot be"
            " stored: names are letters, digits, dots and dashes"
        )


def _named(folder: Path) -> bool:
    return _FINGERPRINT.fullmatch(folder.name) is not None


def _size(source: bytes | Path) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size
