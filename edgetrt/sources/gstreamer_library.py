"""GStreamer's Python modules, loaded when first asked for, and what its errors mean for a person.

The only module that imports them. Domains and codes: https://gstreamer.freedesktop.org/documentation/
(gsterror, gstparse); the images of a Jetson bring the elements whose names begin with `nv`.
"""

from __future__ import annotations

import contextlib
import ctypes
import warnings
from functools import lru_cache
from typing import Any

from edgetrt.errors import SourceError

APT = (
    "python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base "
    "gstreamer1.0-plugins-good gstreamer1.0-tools"
)
"""Debian's packages that cameras through GStreamer need, as for apt-get."""

_PACKAGES = {
    "nvarguscamerasrc": "`nvidia-l4t-camera` of a Jetson's image",
    "nvvidconv": "`nvidia-l4t-gstreamer` of a Jetson's image",
    "v4l2src": "`gstreamer1.0-plugins-good`",
    "jpegdec": "`gstreamer1.0-plugins-good`",
    "videoconvert": "`gstreamer1.0-plugins-base`",
}

_SINK = {
    "emit-signals": True,
    "max-buffers": 1,
    "drop": True,
    "sync": False,
    "enable-last-sample": False,  # a camera has few buffers, and this would keep one of them
}

_RESOURCE, _STREAM, _PARSE = "gst-resource-error-quark", "gst-stream-error-quark", "gst_parse_error"

_NO_CAMERA = "Check that it is plugged in: `ls /dev/video*`, or the CSI cable and `dmesg`."
_HINTS = {
    (_RESOURCE, 3): _NO_CAMERA,  # not found
    (_RESOURCE, 4): "Another program uses it: end that one.",  # busy
    (_RESOURCE, 5): _NO_CAMERA,  # open for reading
    (_RESOURCE, 9): "It was unplugged, or its driver gave up: see `dmesg`.",  # reading
    (_RESOURCE, 15): "Add this user to the group `video`, and log in again.",  # not authorised
}


def _keep_unwinder() -> None:
    """Let C++ exceptions of other libraries be caught as before, once GStreamer's plug-ins are loaded.

    Debian's GStreamer brings libunwind into the process for everybody, whose `_Unwind_*` functions then
    take the place of the C++ runtime's own for libraries that come later: OpenVINO aborts at its first
    exception. Whoever is there first is taken.
    """
    with contextlib.suppress(OSError):
        ctypes.CDLL("libgcc_s.so.1", ctypes.RTLD_GLOBAL)


@lru_cache(maxsize=1)
def _modules() -> tuple[Any, Any, Any]:
    """Load and start GStreamer: its core, its video module and GLib."""
    _keep_unwinder()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # of how PyGObject imports
            import gi

            for name in ("Gst", "GstApp", "GstVideo"):
                gi.require_version(name, "1.0")
            from gi.repository import GLib, Gst, GstApp, GstVideo  # noqa: F401 - GstApp: its types
    except (ImportError, ValueError) as error:
        raise SourceError(
            f"GStreamer cannot be used: {error}",
            f"Run `scripts/setup gstreamer`, or `sudo apt-get install {APT}`; they belong to the system's "
            "own Python.",
        ) from error
    Gst.init(None)
    return Gst, GstVideo, GLib


def gst() -> Any:
    """Start GStreamer; its core module.

    Raises:
        SourceError: its Python modules are not there.
    """
    return _modules()[0]


def video() -> Any:
    """Give GStreamer's video module."""
    return _modules()[1]


def launch(text: str, name: str) -> tuple[Any, Any]:
    """Build a pipeline that stands still; returns it and its appsink.

    Raises:
        SourceError: an element is not installed, or the text is no pipeline with one appsink at its end.
    """
    library, _, glib = _modules()
    whole = text if "appsink" in text else f"{text} ! appsink"
    try:
        pipeline = library.parse_launch(whole)
    except glib.Error as error:
        raise explain(name, error, "") from error
    sinks = []
    if isinstance(pipeline, library.Pipeline):
        found = pipeline.iterate_sinks()
        sinks = [s for s in _all(library, found) if s.get_factory().get_name() == "appsink"]
    if len(sinks) != 1:
        raise SourceError(
            f"{name}: has {len(sinks) or 'no'} appsink at its end, expected one",
            "Write elements joined by `!`, such as `videotestsrc ! appsink`.",
        )
    (sink,) = sinks
    for key, value in _SINK.items():
        sink.set_property(key, value)
    return pipeline, sink


def _all(library: Any, iterator: Any) -> list[Any]:
    out: list[Any] = []
    while True:
        result, item = iterator.next()
        if result != library.IteratorResult.OK:
            return out
        out.append(item)


def explain(name: str, error: Any, detail: str | None) -> SourceError:
    """Word an error of GStreamer's: what it says, and what can be done."""
    message, detail = str(error.message).strip(), (detail or "").strip()
    if detail:
        message = f"{message.rstrip('.')} ({detail.splitlines()[-1]})"
    missing = next((e for e in _PACKAGES if f'"{e}"' in message), "")
    if error.domain == _PARSE and error.code == 1:
        where = _PACKAGES.get(
            missing, "the plug-in that has it: `gst-inspect-1.0` lists those here"
        )
        return SourceError(f"{name}: {message}", f"Install {where}.")
    refused = "not-negotiated" in detail or "can't handle caps" in message
    if error.domain == _PARSE and not refused:
        return SourceError(f"{name}: {message}", "Try the same text with gst-launch-1.0.")
    if refused or (error.domain == _STREAM and error.code == 10):
        return SourceError(
            f"{name}: what was asked for cannot be had: {message}",
            "Ask for a size, rate and format that it has: `v4l2-ctl --list-formats-ext` tells, or"
            " nvarguscamerasrc's own output.",
        )
    if "argus" in (message + detail).lower():
        return SourceError(
            f"{name}: {message}",
            "Is the camera's daemon up (`systemctl restart nvargus-daemon`), and in a container,"
            " is /tmp/argus_socket mounted?",
        )
    hint = _HINTS.get((error.domain, error.code), "Try the same pipeline with gst-launch-1.0.")
    return SourceError(f"{name}: {message}", hint)
