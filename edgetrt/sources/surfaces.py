"""A camera's pictures where its hardware wrote them: handed on, and read by the CPU only when it has to.

A surface keeps GStreamer's sample, and with it the memory, from being used again; the last reference to
the surface gives it back.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import SourceLostError
from edgetrt.sources import nvbufsurface
from edgetrt.sources.nvbufsurface import Description

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from edgetrt.sources.nvbufsurface import Library
    from edgetrt.types import PixelFormat, Shape, YuvColor

_HINT = (
    "Put `! nvvidconv bl-output=false ! video/x-raw(memory:NVMM),format=NV12` before the appsink."
)


class NvmmSurface:
    """One picture.

    Args:
        name: of the camera.
        library: NVIDIA's.
        raw: the bytes of its NvBufSurface.
        sample: keeps the memory; any object.
        stream: what opened the camera.

    Raises:
        SourceLostError: a format or a layout that nothing here can read, or no memory of a Jetson's.
    """

    def __init__(
        self, name: str, library: Library, raw: bytes, sample: object, stream: object
    ) -> None:
        self._name, self._library, self._sample = name, library, sample
        self.stream = stream
        found = self._described = Description(name, raw)
        params = found.params
        self.format, pixel, self.color = self._format()
        rows = [int(params.height)]
        if self.format == "nv12":
            rows.append(rows[0] // 2)
        self.pitches = tuple(int(pitch) for pitch in params.planeParams.pitch[: len(rows)])
        self._planes = [(count, int(params.width) * pixel) for count in rows]
        self.shape: Shape = (sum(rows), int(params.width), *((pixel,) if pixel > 1 else ()))
        self._check()
        self.memory: Hashable = self._identity()
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
        own, library = Description(self._name, self._described.raw), self._library
        return library.map_egl(self._name, own), lambda: library.unmap_egl(own)

    def _format(self) -> tuple[PixelFormat, int, YuvColor]:
        found, params = self._described, self._described.params
        if found.memory_type not in (nvbufsurface.DEFAULT, nvbufsurface.SURFACE_ARRAY):
            raise SourceLostError(
                f"{self._name}: pictures in memory of type {found.memory_type}, expected a Jetson's"
                f" surface array ({nvbufsurface.SURFACE_ARRAY})",
                "Let them come in main memory.",
            )
        if params.layout != nvbufsurface.PITCH_LINEAR:
            raise SourceLostError(f"{self._name}: pictures come block-linear, expected rows", _HINT)
        known = nvbufsurface.FORMATS.get(params.colorFormat)
        if known is None:
            raise SourceLostError(
                f"{self._name}: pictures come in NVIDIA's colour format {params.colorFormat},"
                f" expected one of {', '.join(map(str, nvbufsurface.FORMATS))}",
                _HINT,
            )
        return known

    def _check(self) -> None:
        """See that what is said of the planes can be true: the GPU reads wherever it is sent."""
        params, planes = self._described.params, self._described.params.planeParams
        size = f"{params.width}×{params.height}"
        if self.format in ("nv12", "yuyv") and (params.width % 2 or params.height % 2):
            raise SourceLostError(
                f"{self._name}: {self.format} pictures of {size}: expected even sizes",
                "Ask the camera for another size, or scale in the pipeline.",
            )
        ends = [
            offset + (count - 1) * pitch + row
            for (count, row), pitch, offset in zip(
                self._planes, self.pitches, planes.offset, strict=False
            )
        ]
        fits = all(
            pitch >= row and end <= params.dataSize
            for (_, row), pitch, end in zip(self._planes, self.pitches, ends, strict=True)
        )
        if planes.num_planes != len(self._planes) or not fits or not all(self.shape):
            raise SourceLostError(
                f"{self._name}: {self.format} of {size} in {planes.num_planes} planes with rows of"
                f" {list(self.pitches)} and {params.dataSize} bytes in all cannot be",
                _HINT,
            )

    def _identity(self) -> tuple[int, int]:
        """Device and inode of the memory's file: its number alone goes to the next that is opened."""
        number = self._described.params.bufferDesc
        try:
            found = os.fstat(number)
        except (OSError, OverflowError) as error:
            raise SourceLostError(
                f"{self._name}: its memory's file {number} cannot be used: {error}",
                "The pipeline closed it too early: take the appsink's pictures right behind nvvidconv.",
            ) from error
        return found.st_dev, found.st_ino

    def _copied(self) -> NDArray[np.uint8]:
        own = Description(self._name, self._described.raw)
        out = np.empty(self.shape, np.uint8)
        flat, top = out.reshape(self.shape[0], -1), 0
        for plane, (rows, row) in enumerate(self._planes):
            address = self._library.map(self._name, own, plane)
            try:
                flat[top : top + rows] = _rows(address, rows, row, self.pitches[plane])
            finally:
                self._library.unmap(own, plane)
            top += rows
        return out


def _rows(address: int, rows: int, row: int, pitch: int) -> NDArray[np.uint8]:
    memory: Any = (ctypes.c_uint8 * ((rows - 1) * pitch + row)).from_address(address)
    return np.lib.stride_tricks.as_strided(np.frombuffer(memory, np.uint8), (rows, row), (pitch, 1))
