"""One way to write down any source: `scheme:target?option=value&option=value`.

    file:clip.mp4   file:clip.mp4?loop=1   clip.mp4        a video file
    rtsp://user:password@camera/stream                     a stream; rtsps: for TLS
    dir:frames      dir:frames/*.png       frames/a.png    pictures
    synthetic:1280x720?objects=5&seed=3                    a drawn scene that knows its truth
    csi:0?width=1920&height=1080&fps=30                    a CSI camera of a Jetson, by its number
    v4l2:/dev/video0?format=yuyv&width=640&height=480      a USB camera
    gst:videotestsrc ! video/x-raw,format=NV12 ! appsink   a GStreamer pipeline, taken as it is

A bare path works: a folder, a glob or a picture is `dir:`, anything else is `file:`. The options of a
scheme are the keyword arguments of its class, so that a constructor's docstring is their reference.
A stream's address keeps every part of its query that is no option of ours.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from edgetrt.errors import ConfigError

PICTURES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
)
"""File name endings that are taken for pictures."""

RESERVED = ("sensor",)
"""Schemes of sensors, which no class here serves."""


def _flag(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on", ""):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("1 or 0")


def _count(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,12}", text):
        return int(text)
    raise ValueError("a whole number from 0")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if value > 0 and math.isfinite(value):
        return value
    raise ValueError("a number above 0")


def _transport(text: str) -> str:
    if text in ("tcp", "udp"):
        return text
    raise ValueError("tcp or udp")


def _camera_format(text: str) -> str:
    if text in ("yuyv", "nv12", "bgrx", "gray", "mjpeg"):
        return text
    raise ValueError("yuyv, nv12, bgrx, gray or mjpeg")


_STREAMS = ("rtsp", "rtsps")
_CAMERAS = ("csi", "v4l2", "gst")
_CAMERA: Mapping[str, Callable[[str], Any]] = {
    "width": _count,
    "height": _count,
    "fps": _positive,
    "timeout_s": _positive,
}
_STREAM: Mapping[str, Callable[[str], Any]] = {"rtsp_transport": _transport, "timeout_s": _positive}
OPTIONS: Mapping[str, Mapping[str, Callable[[str], Any]]] = {
    "file": {"loop": _flag, "realtime": _flag, "rate_hz": _positive},
    "rtsp": _STREAM,
    "rtsps": _STREAM,
    "dir": {"loop": _flag, "rate_hz": _positive},
    "csi": {**_CAMERA, "nvmm": _flag},
    "v4l2": {**_CAMERA, "format": _camera_format},
    "gst": {},
    "synthetic": {"objects": _count, "seed": _count, "frames": _count, "rate_hz": _positive},
}
"""By scheme: its options, and how each is read from text."""


@dataclass(frozen=True, slots=True)
class SourceUri:
    """A source, taken apart.

    Attributes:
        scheme: a key of `OPTIONS`.
        target: the path, the glob, the whole address (with its password), the picture size, the
            camera's number or file, or the pipeline.
        options: as written; every key and value has been checked.
    """

    scheme: str
    target: str
    options: Mapping[str, str] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """Return the options as keyword arguments for the class that serves this scheme."""
        return {key: OPTIONS[self.scheme][key](text) for key, text in self.options.items()}

    @property
    def live(self) -> bool:
        """Whether the source will be live, told before it is opened."""
        options = self.arguments()
        always = self.scheme in _STREAMS or self.scheme in _CAMERAS
        return always or bool(options.get("rate_hz") or options.get("realtime"))

    def __str__(self) -> str:
        """As a person wrote it, without the password."""
        return self._text(redact(self.target))

    def written(self) -> str:
        """As `parse` reads it, password and all."""
        return self._text(self.target)

    def _text(self, target: str) -> str:
        query = "&".join(f"{key}={value}" for key, value in self.options.items())
        text = target if self.scheme in _STREAMS else f"{self.scheme}:{target}"
        return text + (("&" if "?" in text else "?") + query if query else "")


def parse(text: str, base: Path | None = None) -> SourceUri:
    """Take a source's URI apart; relative paths are relative to `base`, or to the working folder.

    Raises:
        ConfigError: unknown scheme or option, or a value that the option does not take.
    """
    if not text.strip():
        raise ConfigError("source: empty", f"Write a path or one of: {_schemes()}.")
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)$", text, re.DOTALL)
    if match is None or _exists(_resolve(text, base)):
        return _path(text, base)
    scheme, rest = match[1].lower(), match[2]
    if scheme in _STREAMS:
        return _stream(scheme, f"{scheme}:{rest}")
    if scheme not in OPTIONS:
        raise _unknown_scheme(scheme, text)
    if scheme == "gst":
        return SourceUri(scheme, _pipeline(rest))
    target, query = _split(rest)
    if target.startswith("//"):
        target = unquote(target[2:])
    options = _options(scheme, query, text)
    if scheme == "synthetic":
        return SourceUri(scheme, _picture_size(target, text), options)
    if scheme == "csi":
        return SourceUri(scheme, _sensor(target, text), options)
    if scheme == "v4l2":
        return SourceUri(scheme, target or "/dev/video0", options)
    if not target:
        raise ConfigError(f"source {text!r}: no path after `{scheme}:`")
    return SourceUri(scheme, str(_resolve(target, base)), options)


def redact(address: str) -> str:
    """Return an address without its password, wherever cameras want it."""
    hidden = re.sub(r"(://[^/@:?]*):.*@(?=[^@]*$)", r"\1:***@", address)
    return re.sub(r"(?i)((?:password|passwd|pwd|pass|token)=)[^&/?]*", r"\1***", hidden)


def _path(text: str, base: Path | None) -> SourceUri:
    """A bare path: a folder, a glob or a picture is `dir`, anything else a video file."""
    whole = _resolve(text, base)
    target, query = (text, "") if _exists(whole) else _split(text)
    path = _resolve(target, base)
    pictures = path.suffix.lower() in PICTURES or (_exists(path) and path.is_dir())
    scheme = "dir" if pictures or (is_glob(target) and not _exists(path)) else "file"
    return SourceUri(scheme, str(path), _options(scheme, query, text))


def is_glob(path: str) -> bool:
    """Say whether a path has wildcards."""
    return any(letter in path for letter in "*?[")


def _stream(scheme: str, address: str) -> SourceUri:
    if not re.match(rf"{scheme}://[^/?]+", address):
        raise ConfigError(
            f"source {redact(address)!r}: no host in the address",
            f"Write {scheme}://user:password@host:554/path.",
        )
    front, mark, query = address.partition("?")
    parts = query.split("&") if mark else []
    ours = [part for part in parts if part.partition("=")[0] in OPTIONS[scheme]]
    kept = [part for part in parts if part not in ours]
    target = front + (mark + "&".join(kept) if kept else "")
    return SourceUri(scheme, target, _options(scheme, "&".join(ours), redact(address)))


def _split(text: str) -> tuple[str, str]:
    """Split off a query; a `?` that no `key=` follows belongs to a glob."""
    match = re.fullmatch(r"(.*?)\?(\w+=[^?]*)", text, re.DOTALL)
    return (match[1], match[2]) if match else (text, "")


def _options(scheme: str, query: str, text: str) -> dict[str, str]:
    known = OPTIONS[scheme]
    found: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ConfigError(
                f"source {text!r}: unknown option `{key}` for `{scheme}:`",
                (f"Did you mean `{near[0]}`? " if near else "")
                + f"Known options: {', '.join(known)}.",
            )
        if key in found:
            raise ConfigError(f"source {text!r}: option `{key}` is written twice")
        try:
            known[key](value)
        except ValueError as error:
            raise ConfigError(
                f"source {text!r}: option `{key}`: expected {error}, got {value!r}"
            ) from None
        found[key] = value
    return found


def _picture_size(target: str, text: str) -> str:
    if target and not re.fullmatch(r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}", target):
        raise ConfigError(
            f"source {text!r}: expected a picture size such as 640x480, got {target!r}"
        )
    return target or "640x480"


def _sensor(target: str, text: str) -> str:
    if target and not re.fullmatch(r"[0-9]{1,3}", target):
        raise ConfigError(
            f"source {text!r}: expected a camera's number, got {target!r}", "Write csi:0."
        )
    return target or "0"


def _pipeline(text: str) -> str:
    if not text.strip():
        raise ConfigError(
            "source 'gst:': no pipeline", "Write elements joined by `!`, the last an appsink."
        )
    return text.strip()


def _resolve(path: str, base: Path | None) -> Path:
    try:
        return (base or Path()) / Path(path).expanduser()
    except (RuntimeError, ValueError):  # no such user, or no name that a user can have
        return (base or Path()) / path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _schemes() -> str:
    return ", ".join(f"{scheme}:" for scheme in OPTIONS)


def _unknown_scheme(scheme: str, text: str) -> ConfigError:
    text = redact(text)
    if scheme in RESERVED:
        return ConfigError(
            f"source {text!r}: `{scheme}:` is reserved and not served by this version",
            f"Use one of: {_schemes()}.",
        )
    near = difflib.get_close_matches(scheme, OPTIONS, n=1)
    return ConfigError(
        f"source {text!r}: unknown scheme `{scheme}:`",
        (f"Did you mean `{near[0]}:`? " if near else "") + f"Known schemes: {_schemes()}.",
    )
