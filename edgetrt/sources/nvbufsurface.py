"""NVIDIA's NvBufSurface: pictures that the hardware of a Jetson shares, and the library that describes them.

The only module that knows `libnvbufsurface` and the layout of its structures. Those and the numbers of
the formats: `nvbufsurface.h` of Jetson Linux's multimedia API and of DeepStream. It came in two layouts:
up to DeepStream 7.1 (Jetson Linux 35 and 36) and that of DeepStream 9. They differ behind the fields that
are named here, and in size.

The library is given copies of ours only: what it maps is noted in the copy, and can be unmapped when the
camera has let go of its own.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import TYPE_CHECKING

from edgetrt.errors import SourceLostError

if TYPE_CHECKING:
    from edgetrt.types import PixelFormat, YuvColor

NAMES = ("libnvbufsurface.so.1.0.0", "libnvbufsurface.so")

LAYOUTS = {64: (384, 72), 72: (416, 88)}
"""By the size of a NvBufSurface: those of a NvBufSurfaceParams and of the NvBufSurfaceMappedAddr in it."""

FORMATS: dict[int, tuple[PixelFormat, int, YuvColor]] = {
    1: ("gray", 1, "bt601"),
    6: ("nv12", 1, "bt601"),
    7: ("nv12", 1, "bt601-full"),
    14: ("yuyv", 2, "bt601"),
    15: ("yuyv", 2, "bt601-full"),
    19: ("rgbx", 4, "bt601"),
    20: ("bgrx", 4, "bt601"),
    23: ("rgbx", 4, "bt601"),
    24: ("bgrx", 4, "bt601"),
    33: ("nv12", 1, "bt709"),
    34: ("nv12", 1, "bt709-full"),
    36: ("nv12", 1, "bt2020"),
}
"""By NvBufSurfaceColorFormat: ours, bytes of a pixel of the first plane, and how YUV is meant."""

DEFAULT, SURFACE_ARRAY = 0, 4
"""NvBufSurfaceMemType of a Jetson's own memory; the default is the other one there."""

PITCH_LINEAR = 0
"""NvBufSurfaceLayout: rows one after the other. The other one, block-linear, only textures can read."""

_FOUR = ctypes.c_uint32 * 4
_Pointer = ctypes.c_void_p


class PlaneParams(ctypes.Structure):
    """`NvBufSurfacePlaneParams`: by plane."""

    _fields_ = (
        ("num_planes", ctypes.c_uint32),
        *((name, _FOUR) for name in ("width", "height", "pitch", "offset", "psize", "bytesPerPix")),
        ("reserved", _Pointer * 16),
    )


class Params(ctypes.Structure):
    """`NvBufSurfaceParams` as far as both layouts agree: to the EGL image."""

    _fields_ = (
        *(
            (name, ctypes.c_uint32)
            for name in ("width", "height", "pitch", "colorFormat", "layout")
        ),
        ("bufferDesc", ctypes.c_uint64),
        ("dataSize", ctypes.c_uint32),
        ("dataPtr", _Pointer),
        ("planeParams", PlaneParams),
        ("addr", _Pointer * 4),
        ("eglImage", _Pointer),
    )


class Batch(ctypes.Structure):
    """`NvBufSurface` as far as both layouts agree."""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("gpuId", "batchSize", "numFilled")),
        ("isContiguous", ctypes.c_bool),
        ("memType", ctypes.c_uint32),
        ("surfaceList", _Pointer),
    )


def params_of(camera: str, raw: bytes) -> bytes:
    """Read what a NvBufSurface says of its one picture.

    Args:
        camera: its name.
        raw: the NvBufSurface, as a GStreamer buffer in NVMM holds it. What it points at must still be
            there.

    Raises:
        SourceLostError: a layout that is not known, or not one picture.
    """
    if len(raw) not in LAYOUTS:
        raise SourceLostError(
            f"{camera}: a NvBufSurface of {len(raw)} bytes, expected one of"
            f" {', '.join(map(str, LAYOUTS))}",
            "This Jetson Linux has another layout than those that are known.",
        )
    batch = Batch.from_buffer_copy(raw)
    if not batch.surfaceList or batch.batchSize != 1:
        raise SourceLostError(
            f"{camera}: a batch of {batch.batchSize} pictures, expected one",
            "Take the appsink's pictures from before nvstreammux.",
        )
    return ctypes.string_at(batch.surfaceList, LAYOUTS[len(raw)][0])


class Description:
    """A copy of how a picture lies in memory, which the library may note its mappings in.

    Args:
        raw: the NvBufSurface.
        params: what it says of its picture.
    """

    def __init__(self, raw: bytes, params: bytes) -> None:
        self._raw = ctypes.create_string_buffer(raw, len(raw))
        self._params = ctypes.create_string_buffer(params, len(params))
        noted = ctypes.addressof(self._params) + Params.addr.offset
        ctypes.memset(noted, 0, LAYOUTS[len(raw)][1])
        batch = Batch.from_buffer(self._raw)
        batch.surfaceList, batch.numFilled = ctypes.addressof(self._params), 1
        self.params = Params.from_buffer(self._params)
        self.pointer = ctypes.addressof(self._raw)


class Library:
    """The calls.

    Args:
        names: of the library, the first that is there is taken.

    Raises:
        SourceLostError: none is, or it has not these calls.
    """

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        surface, number = _Pointer, ctypes.c_int
        calls = {
            "NvBufSurfaceMap": (surface, number, number, number),
            "NvBufSurfaceUnMap": (surface, number, number),
            "NvBufSurfaceSyncForCpu": (surface, number, number),
            "NvBufSurfaceMapEglImage": (surface, number),
            "NvBufSurfaceUnMapEglImage": (surface, number),
        }
        try:
            self._library = _first(names)
            for name, kinds in calls.items():
                getattr(self._library, name).argtypes = kinds
        except (OSError, AttributeError) as error:
            raise SourceLostError(
                f"NVMM memory cannot be read: {error}",
                "Install `nvidia-l4t-multimedia-utils` of a Jetson's image, or, in a container, let its"
                " runtime bring it; or let the pictures come in main memory.",
            ) from error

    def map(self, name: str, what: Description, plane: int) -> int:
        """Show a plane to the CPU, with what the hardware wrote; returns its address.

        Raises:
            SourceLostError: refused; nothing is left mapped.
        """
        self._call(name, "NvBufSurfaceMap", what, 0, plane, 0)
        try:
            self._call(name, "NvBufSurfaceSyncForCpu", what, 0, plane)
            return self._noted(name, "NvBufSurfaceMap", what.params.addr[plane])
        except SourceLostError:
            self.unmap(what, plane)
            raise

    def unmap(self, what: Description, plane: int) -> None:
        """Take it back; there is nothing to do about a refusal."""
        self._library.NvBufSurfaceUnMap(what.pointer, 0, plane)

    def map_egl(self, name: str, what: Description) -> int:
        """Make an EGL image of it.

        Raises:
            SourceLostError: refused.
        """
        self._call(name, "NvBufSurfaceMapEglImage", what, 0)
        return self._noted(name, "NvBufSurfaceMapEglImage", what.params.eglImage)

    def unmap_egl(self, what: Description) -> None:
        """Free the EGL image; there is nothing to do about a refusal."""
        self._library.NvBufSurfaceUnMapEglImage(what.pointer, 0)

    def _call(self, camera: str, call: str, what: Description, *arguments: int) -> None:
        if getattr(self._library, call)(what.pointer, *arguments):
            raise _refused(camera, call)

    def _noted(self, camera: str, call: str, address: int | None) -> int:
        if not address:
            raise _refused(camera, f"{call} (nothing noted)")
        return address


def _refused(camera: str, call: str) -> SourceLostError:
    return SourceLostError(
        f"{camera}: {call} failed",
        "Its own words are in the journal. Without a screen, leave DISPLAY unset: it asks EGL for that"
        " screen; and see that this user may open `/dev/nvmap` and `/dev/dri/*`.",
    )


def _first(names: tuple[str, ...]) -> ctypes.CDLL:
    *others, last = names
    for name in others:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return ctypes.CDLL(last)


@lru_cache(maxsize=1)
def load() -> Library:
    """Load the library once.

    Raises:
        SourceLostError: this machine has none.
    """
    return Library()
