"""A release as one file: a plain tar whose bytes depend on nothing but its content.

One target has one digest, one signature and one download that can be resumed. Nothing is compressed:
weights hardly shrink, and what is not decompressed cannot explode.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import msgspec

from edgetrt import document
from edgetrt.config import PipelineConfig, RecipeConfig
from edgetrt.errors import ConfigError, DigestError
from edgetrt.update import durable
from edgetrt.update.release import (
    MANIFEST,
    Part,
    PipelinePart,
    Release,
    ReleaseConfig,
    Stored,
    inside,
)

if TYPE_CHECKING:
    from typing import IO

_CHUNK = 1 << 20
_MANIFEST_LIMIT = 4 << 20
_DECODER = msgspec.json.Decoder(Release)


def plan(path: Path) -> Release:
    """Read `release.yaml` and every file it leads to.

    Raises:
        ConfigError: a file is missing, wrong, or outside the release's folder.
    """
    config = document.load(path, ReleaseConfig)
    folder = path.parent.resolve()
    names: set[str] = {inside(name) for name in config.files}
    parts = tuple(_part(folder, part, names) for part in config.pipelines)
    return Release(
        name=config.name,
        version=config.version,
        needs=config.needs,
        pipelines=parts,
        files={name: _stored(folder / name) for name in sorted(names)},
    )


def vain_bounds(path: Path) -> list[str]:
    """Lower bounds of a `release.yaml` that its own pipelines never reach, each in words.

    A pipeline that is paced gives no more frames than that, and then a low rate is no fault of the
    network: such a bound can neither be met nor fail.

    Raises:
        ConfigError: as `plan`.
    """
    found = []
    for part in document.load(path, ReleaseConfig).pipelines:
        pipeline = document.load(path.parent / part.pipeline, PipelineConfig)
        rates_hz = [rate for rate in (pipeline.rate_hz, _rate_of(pipeline.source)) if rate]
        least = part.bands.fps_min
        if least is not None and rates_hz and least > min(rates_hz):
            found.append(
                f"{part.pipeline}: rate_hz {min(rates_hz):g}, and bands.fps_min is {least:g}:"
                " it can neither be met nor fail"
            )
    return found


def _rate_of(source: str) -> float | None:
    """The `rate_hz` of a source's URI, when it has one."""
    with contextlib.suppress(ValueError, KeyError):
        return float(parse_qs(source.partition("?")[2])["rate_hz"][0])
    return None


def pack(folder: Path, release: Release, to: IO[bytes]) -> None:
    """Write the release of a folder; the same files make the same bytes."""
    manifest = msgspec.json.encode(release, order="sorted")
    with tarfile.open(fileobj=to, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(_member(MANIFEST, len(manifest)), io.BytesIO(manifest))
        for name, stored in release.files.items():
            with (folder / name).open("rb") as file:
                tar.addfile(_member(name, stored.size), file)


def unpack(path: Path, sha256: str, to: Path) -> Release:
    """Unpack a release into the new folder `to`, in one pass over bytes that are checked on the way.

    Nothing is left behind when they are not the promised ones; everything is on the disk when this
    returns.

    Raises:
        DigestError: another digest, a file that the manifest does not name, or one that differs.
    """
    to.mkdir(mode=0o700)
    try:
        with path.open("rb") as file:
            reader = _Hashing(file)
            release = _unpack(reader, to)
            reader.drain()
        if reader.digest() != sha256:
            raise _damaged(f"sha256 {reader.digest()[:16]}…, expected {sha256[:16]}…")
        durable.flush_tree(to)
    except (tarfile.TarError, msgspec.MsgspecError, ConfigError, EOFError) as error:
        durable.remove(to)
        raise _damaged(str(error)) from error
    except (DigestError, OSError):
        durable.remove(to)
        raise
    return release


def read(folder: Path) -> Release:
    """The manifest of an unpacked release.

    Raises:
        DigestError: it is missing or damaged.
    """
    try:
        return _DECODER.decode((folder / MANIFEST).read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise _damaged(f"{folder / MANIFEST}: {error}") from error


def _part(folder: Path, part: PipelinePart, names: set[str]) -> Part:
    path = folder / inside(part.pipeline)
    config = document.load(path, PipelineConfig)
    recipe = document.beside(path, config.model)
    found = [path, recipe]
    if recipe.suffix in (".yaml", ".yml"):
        found.append(document.beside(recipe, document.load(recipe, RecipeConfig).model))
    found += [folder / inside(n) for golden in part.golden for n in (golden.input, golden.expected)]
    names |= {_within(folder, file) for file in found}
    return Part(
        name=config.name,
        pipeline=_within(folder, path),
        recipe=_within(folder, recipe),
        golden=part.golden,
        bands=part.bands,
    )


def _within(folder: Path, path: Path) -> str:
    if not path.resolve().is_relative_to(folder):
        raise ConfigError(
            f"{path}: outside the release's folder {folder}",
            "Put every file that the release needs below release.yaml.",
        )
    return inside(path.resolve().relative_to(folder).as_posix())


def _stored(path: Path) -> Stored:
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", "Check the path.") from error
    return Stored(sha256=digest.hexdigest(), size=size)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


def _unpack(reader: _Hashing, to: Path) -> Release:
    with tarfile.open(fileobj=reader, mode="r|") as tar:
        first = tar.next()
        if first is None or first.name != MANIFEST or first.size > _MANIFEST_LIMIT:
            raise _damaged(f"it does not begin with {MANIFEST}")
        data = _content(tar, first)
        release = _DECODER.decode(data)
        if release.v != 1:
            raise _damaged(f"manifest version {release.v}, expected 1")
        (to / MANIFEST).write_bytes(data)
        for name, stored in release.files.items():
            member = tar.next()
            if member is None or member.name != name or not member.isreg():
                got = "the end" if member is None else repr(member.name)
                raise _damaged(f"expected {name!r}, got {got}")
            _write(tar, member, stored, to / inside(name))
        if (extra := tar.next()) is not None:
            raise _damaged(f"{extra.name!r} is not in the manifest")
    return release


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    if stream is None:
        raise _damaged(f"{member.name!r} is no file")
    return stream.read()


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, stored: Stored, path: Path) -> None:
    stream = tar.extractfile(member)
    if stream is None or member.size != stored.size:
        raise _damaged(f"{member.name!r} has {member.size} bytes, expected {stored.size}")
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("xb") as file:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != stored.sha256:
        raise _damaged(f"{member.name!r} differs from the manifest")


def _damaged(what: str) -> DigestError:
    return DigestError(
        f"release: {what}", "Fetch it again; if it stays so, publish it again.", "digest"
    )


class _Hashing(io.RawIOBase):
    """Reads a file and hashes what it read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data

    def drain(self) -> None:
        while self.read(_CHUNK):
            pass

    def digest(self) -> str:
        return self._digest.hexdigest()
