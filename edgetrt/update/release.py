"""What a release is: the file its author writes, and the manifest that travels in it."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated

import msgspec

from edgetrt.config import Name, Positive, Struct, Unit
from edgetrt.errors import ConfigError, IncompatibleError

MANIFEST = "release.json"
CUSTOM = "edgetrt"
"""Key of our part in a target's `custom` metadata."""

Version = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}$")]
Digits = Annotated[str, msgspec.Meta(pattern=r"^\d+(\.\d+){0,3}$")]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]


class Golden(Struct, frozen=True):
    """An input and what the network must answer to it; both are files of the release.

    `tolerance` is the largest difference of one output value, relative to the largest expected one.
    """

    input: str
    expected: str
    tolerance: Unit = 0.02


class Bands(Struct, frozen=True):
    """What a release promises for one pipeline. Unset = nothing promised.

    `worse_percent` bounds the loss against the release before on the very device, null = it may be as
    slow as the other bands allow, such as a larger network; `prove_s` is how long it is watched.
    `shadow_frames` live frames are looked at by the new network beside the old one before it takes over;
    both must agree on at least `agreement_min` of what they find.
    """

    fps_min: Positive | None = None
    p99_ms_max: Positive | None = None
    accuracy_min: Unit | None = None
    error_rate_max: Unit = 0.0
    memory_mb_max: Positive | None = None
    temperature_c_max: Positive | None = None
    worse_percent: Percent | None = 10.0
    prove_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 60.0
    shadow_frames: Annotated[int, msgspec.Meta(ge=0, le=10000)] = 0
    agreement_min: Unit | None = None


class Needs(Struct, frozen=True):
    """Where a release can run; `boards` are names such as `orin-nx-16gb`, empty = any.

    No fractions here: this is part of signed metadata, and the canonical JSON that is signed knows none.
    """

    boards: tuple[Name, ...] = ()
    tensorrt_min: Digits | None = None
    l4t_min: Digits | None = None
    memory_mb: Annotated[int, msgspec.Meta(gt=0, le=10**9)] | None = None


class PipelinePart(Struct, frozen=True):
    """One pipeline of a release: its file, its golden inputs, its bands."""

    pipeline: str
    golden: tuple[Golden, ...] = ()
    bands: Bands = Bands()


class ReleaseConfig(Struct, frozen=True):
    """`release.yaml`: what its author writes. Paths are inside the folder of this file.

    The networks are found through the pipelines; `files` adds what they need besides, such as weights
    that stand beside an ONNX file.
    """

    name: Name
    version: Version
    pipelines: Annotated[tuple[PipelinePart, ...], msgspec.Meta(min_length=1)]
    needs: Needs = Needs()
    files: tuple[str, ...] = ()


class Stored(Struct, frozen=True):
    """A file of a release."""

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, msgspec.Meta(ge=0)]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline as the device finds it: `recipe` is the file that its `model` names."""

    name: Name
    pipeline: str
    recipe: str
    golden: tuple[Golden, ...] = ()
    bands: Bands = Bands()


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """`release.json`, the first file of every release; unknown fields are left alone."""

    v: int = 1
    name: Name
    version: Version
    needs: Needs = Needs()
    pipelines: tuple[Part, ...]
    files: dict[str, Stored]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What the signed metadata says of a release, so that a device can refuse it before the download."""

    name: Name
    version: Version
    needs: Needs = Needs()
    unpacked: Annotated[int, msgspec.Meta(ge=0)]


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What this device is, as far as a release can ask; None = not known here."""

    board: str | None = None
    tensorrt: str | None = None
    l4t: str | None = None
    memory_mb: float | None = None


def summary(release: Release) -> Summary:
    """The part of a manifest that the metadata repeats."""
    size = sum(file.size for file in release.files.values())
    return Summary(name=release.name, version=release.version, needs=release.needs, unpacked=size)


def require(needs: Needs, host: Host, what: str) -> None:
    """Refuse a release that is not for this device.

    Raises:
        IncompatibleError: another board, an older TensorRT or Jetson Linux, or too little memory.
    """
    if needs.boards and host.board not in needs.boards:
        raise _incompatible(what, "board", " or ".join(needs.boards), host.board)
    for name, least, have in (
        ("TensorRT", needs.tensorrt_min, host.tensorrt),
        ("Jetson Linux", needs.l4t_min, host.l4t),
    ):
        if least is not None and (have is None or numbers(have) < numbers(least)):
            raise _incompatible(what, name, f"at least {least}", have)
    if needs.memory_mb is not None and (host.memory_mb or 0) < needs.memory_mb:
        have = None if host.memory_mb is None else f"{host.memory_mb:.0f} MB"
        raise _incompatible(what, "memory", f"at least {needs.memory_mb:.0f} MB", have)


def numbers(version: str) -> tuple[int, ...]:
    """`10.3.0` as numbers, compared place by place; what is no number ends it."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    digits = [int(part) for part in found[0].split(".")] if found else []
    while digits and digits[-1] == 0:
        digits.pop()
    return tuple(digits)


def inside(path: str) -> str:
    """A path within a release, written one way only.

    Raises:
        ConfigError: it leaves the release's folder, or cannot be told from another path.
    """
    pure = PurePosixPath(path)
    usable = path and "\\" not in path and path.isprintable() and len(path) <= 200
    if not usable or pure.is_absolute() or ".." in pure.parts or str(pure) in (".", MANIFEST):
        raise ConfigError(
            f"{path!r}: not a path inside the release", "Name a file below release.yaml."
        )
    return str(pure)


def _incompatible(what: str, name: str, wanted: str, have: str | None) -> IncompatibleError:
    return IncompatibleError(
        f"{what}: {name}: needs {wanted}, this device has {have or 'an unknown one'}",
        "Assign this device a release made for it.",
        "incompatible",
    )
