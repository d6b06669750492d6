"""Boards, the TensorRT each can run, and whether a DLA is there; data in `boards.yaml`."""

from __future__ import annotations

import difflib
import re
from functools import cache
from importlib import resources

import msgspec
import yaml

from edgetrt.errors import ConfigError

_COMPARE = re.compile(r"(<=|>=|<|>|=)(\d+(?:\.\d+)*)")
_VERSION = re.compile(r"\d+(\.\d+){0,3}")

Version = tuple[int, ...]


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A module that engines are built for; `modules` are its part numbers, or beginnings of them."""

    title: str
    soc: str
    family: str
    dla_cores: int
    modules: tuple[str, ...] = ()


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JetPack and its TensorRT; `dla` are the families that have a DLA under it."""

    jetpack: str
    trt: str
    families: tuple[str, ...]
    dla: tuple[str, ...]
    source: str
    also: tuple[str, ...] = ()

    def has(self, trt: Version) -> bool:
        """Whether this JetPack can run that TensorRT; a short version stands for all it begins."""
        return any(version(own)[: len(trt)] == trt for own in (self.trt, *self.also))


class NoDla(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A range of TensorRT versions without DLA, and why."""

    trt: str
    reason: str
    source: str


class Boards(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of `boards.yaml`."""

    sources: dict[str, str]
    targets: dict[str, Target]
    releases: tuple[Release, ...]
    no_dla: tuple[NoDla, ...]


class Availability(msgspec.Struct, frozen=True):
    """Whether a target has a DLA under a TensorRT.

    `reason` says why not; `hint` what would help; `source` is the page that says so.
    """

    dla: bool
    reason: str = ""
    hint: str = ""
    source: str = ""


@cache
def boards() -> Boards:
    """The data, read once."""
    text = resources.files("edgetrt.model").joinpath("boards.yaml").read_text("utf-8")
    return msgspec.convert(yaml.safe_load(text), Boards)


def find_target(name: str) -> Target:
    """Look a target up.

    Raises:
        ConfigError: unknown; the hint lists all and names the nearest.
    """
    known = boards().targets
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower(), known, 1, 0.4)
    guess = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(f"unknown target {name!r}", f"{guess}known targets: {', '.join(known)}")


def target_of(part_number: str | None) -> str | None:
    """The target that a module's part number belongs to; None when it is none of ours."""
    if part_number is None:
        return None
    return next(
        (
            name
            for name, target in boards().targets.items()
            if any(part_number.startswith(module) for module in target.modules)
        ),
        None,
    )


def parse_version(text: str) -> Version:
    """`10.3` to numbers.

    Raises:
        ConfigError: not a version.
    """
    if not _VERSION.fullmatch(text):
        raise ConfigError(f"{text!r} is no TensorRT version", "Write it as 8.5, 10.3 or 11.4.1.")
    return version(text)


def version(text: str) -> Version:
    """Dotted numbers to a tuple."""
    return tuple(int(part) for part in text.split("."))


def in_range(trt: Version, limits: str) -> bool:
    """Whether a version satisfies `>=8.6,<10`; compared to the length of each limit."""
    return all(_holds(trt, sign, version(number)) for sign, number in _COMPARE.findall(limits))


def default_trt(target: Target) -> Version:
    """The newest TensorRT with which the target has a DLA; the newest at all when there is none."""
    own = [release for release in boards().releases if target.family in release.families]
    with_dla = [release for release in own if target.family in release.dla]
    return version((with_dla or own)[-1].trt)


def availability(target: Target, trt: Version) -> Availability:
    """Whether there is a DLA to place layers on."""
    data = boards()
    releases = [release for release in data.releases if target.family in release.families]
    if target.dla_cores == 0:
        others = ", ".join(name for name, item in data.targets.items() if item.dla_cores)
        reason, source = f"{target.title} has no DLA", data.sources["faq"]
        if why := _no_dla(trt):
            reason += f"; besides, {why.reason}"
        return Availability(False, reason, f"boards with a DLA: {others}", source)
    which = "releases with a DLA on this board: " + ", ".join(
        f"JetPack {release.jetpack} (TensorRT {' or '.join((release.trt, *release.also))})"
        for release in releases
        if target.family in release.dla
    )
    if why := _no_dla(trt):
        return Availability(False, why.reason, which, data.sources[why.source])
    fitting = [release for release in releases if release.has(trt)]
    if fitting and not any(target.family in release.dla for release in fitting):
        reason = f"JetPack {fitting[0].jetpack} has no DLA on {target.title}"
        return Availability(False, reason, which, data.sources[fitting[0].source])
    if not fitting and not _installable(trt, releases):
        reason = f"no JetPack for {target.title} has TensorRT {'.'.join(map(str, trt))}"
        return Availability(False, reason, which, data.sources["dla"])
    return Availability(True)


def _no_dla(trt: Version) -> NoDla | None:
    return next((row for row in boards().no_dla if in_range(trt, row.trt)), None)


def _installable(trt: Version, releases: list[Release]) -> bool:
    """Between a JetPack's own TensorRT and the newest it can take."""
    spans = [
        (version(release.trt), version((release.trt, *release.also)[-1])) for release in releases
    ]
    return any(low[: len(trt)] <= trt and trt[: len(high)] <= high for low, high in spans)


def _holds(trt: Version, sign: str, limit: Version) -> bool:
    width = max(len(trt), len(limit)) if sign in ("<", ">") else len(limit)
    left = (trt + (0,) * width)[:width]
    right = (limit + (0,) * width)[:width]
    return {
        "<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right,
        "=": left == right and len(trt) >= len(limit),
    }[sign]  # fmt: skip
