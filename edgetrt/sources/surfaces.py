"""A camera's pictures where its hardware wrote them: handed on, and read by the CPU only when it has to.

A surface keeps GStreamer's sample, and with it the memory, from being used again; the last reference to
the surface gives it back.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import SourceLostError
from edgetrt.sources import nvbufsurface
from edgetrt.sources.nvbufsurface import Description

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from edgetrt.sources.nvbufsurface import Batch, Library, Params
    from edgetrt.types import PixelFormat, Shape, YuvColor

_HINT = (
    "Put `! nvvidconv bl-output=false ! video/x-raw(memory:NVMM),format=NV12` before the appsink."
)


MOST = 64
"""Descriptions that are remembered; a camera has as many as buffers."""


@dataclass(frozen=True)
class Lying:
    """How pictures lie in a buffer, checked.

    Attributes:
        raw, params: NVIDIA's description, to make copies of.
        format, color: of the pictures.
        shape: of the array that one is copied to.
        planes: rows, and bytes of a row.
        pitches: bytes from one row to the next, by plane.
        file: number of the memory's file.
    """

    raw: bytes
    params: bytes
    format: PixelFormat
    color: YuvColor
    shape: Shape
    planes: tuple[tuple[int, int], ...]
    pitches: tuple[int, ...]
    file: int


class Lender:
    """Hands on a camera's pictures, from one opening to the next.

    Args:
        name: of the camera.
        library: NVIDIA's.
    """

    def __init__(self, name: str, library: Library) -> None:
        self._name, self._library = name, library
        self._known: dict[tuple[bytes, bytes], Lying] = {}

    def __call__(self, raw: bytes, sample: object) -> NvmmSurface:
        """Hand on a picture.

        Args:
            raw: the bytes of its NvBufSurface.
            sample: keeps the memory; any object.

        Raises:
            SourceLostError: a format or a layout that nothing here can read, or no memory of a Jetson's.
        """
        params = nvbufsurface.params_of(self._name, raw)
        lying = self._known.get((raw, params))
        if lying is None:
            if len(self._known) >= MOST:
                self._known.clear()
            lying = self._known[raw, params] = read(self._name, raw, params)
        memory = _identity(self._name, lying.file)
        return NvmmSurface(self._name, self._library, lying, memory, sample, self)


class NvmmSurface:
    """One picture.

    Args:
        name: of the camera.
        library: NVIDIA's.
        lying: where in its memory.
        memory: which.
        sample: keeps it.
        stream: what opened the camera.
    """

    def __init__(
        self,
        name: str,
        library: Library,
        lying: Lying,
        memory: Hashable,
        sample: object,
        stream: object,
    ) -> None:
        self._name, self._library, self._lying, self._sample = name, library, lying, sample
        self.format, self.color = lying.format, lying.color
        self.shape, self.pitches = lying.shape, lying.pitches
        self.memory, self.stream = memory, stream
        self._array: NDArray[np.uint8] | None = None

    def __array__(self, dtype: object = None, copy: object = None) -> NDArray[np.uint8]:
        """Copy it into the host's memory, the first time it is asked for.

        Raises:
            SourceLostError: the host cannot read it.
        """
        if self._array is None:
            self._array = self._copied()
        return self._array

    def egl_image(self) -> tuple[int, Callable[[], None]]:
        """Make an EGL image of its memory, and what frees it.

        Raises:
            SourceLostError: refused.
        """
        own, library = Description(self._lying.raw, self._lying.params), self._library
        return library.map_egl(self._name, own), lambda: library.unmap_egl(own)

    def _copied(self) -> NDArray[np.uint8]:
        lying, own = self._lying, Description(self._lying.raw, self._lying.params)
        out = np.empty(lying.shape, np.uint8)
        flat, top = out.reshape(lying.shape[0], -1), 0
        for plane, (rows, row) in enumerate(lying.planes):
            address = self._library.map(self._name, own, plane)
            try:
                flat[top : top + rows] = _rows(address, rows, row, lying.pitches[plane])
            finally:
                self._library.unmap(own, plane)
            top += rows
        return out


def read(name: str, raw: bytes, params: bytes) -> Lying:
    """Read a description, and see that it can be true: the GPU reads wherever it is sent.

    Raises:
        SourceLostError: a format or a layout that nothing here can read, or no memory of a Jetson's.
    """
    told = nvbufsurface.Params.from_buffer_copy(params)
    pixel_format, pixel, color = _format(name, nvbufsurface.Batch.from_buffer_copy(raw), told)
    width, height, planes = int(told.width), int(told.height), told.planeParams
    rows = (height, height // 2) if pixel_format == "nv12" else (height,)
    pitches = tuple(planes.pitch[: len(rows)])
    ends = [
        start + (count - 1) * pitch + width * pixel
        for start, count, pitch in zip(planes.offset, rows, pitches, strict=False)
    ]
    fits = min(pitches) >= width * pixel and max(ends) <= told.dataSize
    if planes.num_planes != len(rows) or not fits or not (width and height):
        raise SourceLostError(
            f"{name}: {pixel_format} of {width}×{height} in {planes.num_planes} planes with rows of"
            f" {list(pitches)} and {told.dataSize} bytes in all cannot be",
            _HINT,
        )
    shape = (sum(rows), width, *((pixel,) if pixel > 1 else ()))
    lines = tuple((count, width * pixel) for count in rows)
    return Lying(raw, params, pixel_format, color, shape, lines, pitches, int(told.bufferDesc))


def _format(name: str, batch: Batch, told: Params) -> tuple[PixelFormat, int, YuvColor]:
    """The format, bytes of a pixel of its first plane, and how YUV is meant."""
    if batch.memType not in (nvbufsurface.DEFAULT, nvbufsurface.SURFACE_ARRAY):
        raise SourceLostError(
            f"{name}: pictures in memory of type {batch.memType}, expected a Jetson's surface array"
            f" ({nvbufsurface.SURFACE_ARRAY})",
            "Let them come in main memory.",
        )
    if told.layout != nvbufsurface.PITCH_LINEAR:
        raise SourceLostError(f"{name}: pictures come block-linear, expected rows", _HINT)
    known = nvbufsurface.FORMATS.get(told.colorFormat)
    if known is None:
        raise SourceLostError(
            f"{name}: pictures come in NVIDIA's colour format {told.colorFormat}, expected one of"
            f" {', '.join(map(str, nvbufsurface.FORMATS))}",
            _HINT,
        )
    if known[0] in ("nv12", "yuyv") and (told.width % 2 or told.height % 2):
        raise SourceLostError(
            f"{name}: {known[0]} pictures of {told.width}×{told.height}: expected even sizes",
            "Ask the camera for another size, or scale in the pipeline.",
        )
    return known


def _identity(name: str, number: int) -> tuple[int, int]:
    """Device and inode of a memory's file: its number alone goes to the next that is opened."""
    try:
        found = os.fstat(number)
    except (OSError, OverflowError) as error:
        raise SourceLostError(
            f"{name}: its memory's file {number} cannot be used: {error}",
            "The pipeline closed it too early: take the appsink's pictures right behind nvvidconv.",
        ) from error
    return found.st_dev, found.st_ino


def _rows(address: int, rows: int, row: int, pitch: int) -> NDArray[np.uint8]:
    memory: Any = (ctypes.c_uint8 * ((rows - 1) * pitch + row)).from_address(address)
    return np.lib.stride_tricks.as_strided(np.frombuffer(memory, np.uint8), (rows, row), (pitch, 1))
