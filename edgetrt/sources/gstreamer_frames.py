"""GStreamer's samples to what frames hold: one copy, rows closed up where the plug-in padded them.

Pictures in NVMM, the memory that a Jetson's hardware shares, are not copied but lent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import SourceLostError
from edgetrt.sources import nvbufsurface
from edgetrt.sources.gstreamer_library import gst, video
from edgetrt.sources.surfaces import Lender, NvmmSurface

if TYPE_CHECKING:
    from edgetrt.ports import Surface
    from edgetrt.types import PixelFormat

_FORMATS: dict[str, tuple[PixelFormat, int]] = {
    "NV12": ("nv12", 1),
    "YUY2": ("yuyv", 2),
    "BGRx": ("bgrx", 4),
    "BGRA": ("bgrx", 4),
    "RGBx": ("rgbx", 4),
    "RGBA": ("rgbx", 4),
    "RGB": ("rgb", 3),
    "BGR": ("bgr", 3),
    "GRAY8": ("gray", 1),
}
"""By GStreamer's name: ours, and bytes of a pixel (of the first plane)."""

_HINT = "Put `! videoconvert ! video/x-raw,format=NV12` (on a Jetson `! nvvidconv ! …`) before the appsink."


class Unpacker:
    """Reads samples of one source, from one opening to the next.

    Args:
        name: of the source.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._gst, self._video = gst(), video()
        self._lend: Lender | None = None

    def __call__(
        self, sample: Any
    ) -> tuple[NDArray[np.uint8] | Surface, PixelFormat, float | None]:
        """Take a sample's picture; returns it, its format, and the rate that the caps tell.

        Raises:
            SourceLostError: a format that no frame has, or memory that cannot be read.
        """
        caps = sample.get_caps()
        info = self._video.VideoInfo.new_from_caps(caps)
        rate_hz = (
            info.fps_n / info.fps_d if info is not None and info.fps_n and info.fps_d else None
        )
        if caps.get_features(0).contains("memory:NVMM"):
            surface = self._lent(sample)
            return surface, surface.format, rate_hz
        return *self._copied(sample.get_buffer(), caps, info), rate_hz

    def _lent(self, sample: Any) -> NvmmSurface:
        """Hand on a picture in NVMM; its buffer holds NVIDIA's description of it."""
        if self._lend is None:
            self._lend = Lender(self._name, nvbufsurface.load())
        buffer = sample.get_buffer()
        mapped, memory = buffer.map(self._gst.MapFlags.READ)
        if not mapped:
            raise SourceLostError(f"{self._name}: a buffer in NVMM that cannot be read")
        try:
            raw = bytes(memory.data)
        finally:
            buffer.unmap(memory)
        return self._lend(raw, sample)

    def _copied(self, buffer: Any, caps: Any, info: Any) -> tuple[NDArray[np.uint8], PixelFormat]:
        """Copy a picture out of main memory."""
        found = _FORMATS.get(info.finfo.name) if info is not None and info.finfo else None
        mapped, memory = buffer.map(self._gst.MapFlags.READ)
        if found is None or not mapped:
            if mapped:
                buffer.unmap(memory)
            raise SourceLostError(
                f"{self._name}: pictures come as {caps.to_string()}, expected one of"
                f" {', '.join(_FORMATS)} in main memory, or NVMM",
                _HINT,
            )
        try:
            self._check(found[0], info.width, info.height)
            meta = self._video.buffer_get_video_meta(buffer)
            layout = meta if meta is not None else info
            data = _packed(memory.data, info, found, list(layout.offset), list(layout.stride))
        finally:
            buffer.unmap(memory)
        return data, found[0]

    def _check(self, pixel_format: PixelFormat, width: int, height: int) -> None:
        if pixel_format in ("nv12", "yuyv") and (width % 2 or height % 2):
            raise SourceLostError(
                f"{self._name}: {pixel_format} pictures of {width}×{height}: expected even sizes",
                "Ask the camera for another size, or scale in the pipeline.",
            )


def _packed(
    memory: Any, info: Any, found: tuple[PixelFormat, int], offsets: list[int], strides: list[int]
) -> NDArray[np.uint8]:
    """One array of the picture's rows, without what pads them."""
    pixel_format, pixel = found
    width, height = int(info.width), int(info.height)
    row = width * pixel
    planes = [(offsets[0], strides[0], height)]
    if pixel_format == "nv12":
        planes.append((offsets[1], strides[1], height // 2))
    out = np.empty((sum(rows for *_, rows in planes), row), np.uint8)
    raw: NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
    top = 0
    for offset, stride, rows in planes:
        if stride < row or offset + (rows - 1) * stride + row > raw.size:
            raise SourceLostError(
                f"a picture of {raw.size} bytes: too short for {width}×{height} {pixel_format}",
                "What is before the appsink must hand over whole pictures, as its caps promise.",
            )
        view = np.lib.stride_tricks.as_strided(raw[offset:], (rows, row), (stride, 1))
        out[top : top + rows] = view
        top += rows
    return out.reshape(height, width, pixel) if pixel > 1 else out
