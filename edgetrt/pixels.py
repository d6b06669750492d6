"""Camera formats to RGB on the CPU: one conversion, by OpenCV where the machine has it.

YUV is BT.601 in limited range, as cameras deliver it, and chroma is not interpolated; both ways of
converting agree within one grey level, and so does the GPU's kernel.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgetrt.types import PixelFormat

Pixels = NDArray[np.uint8]

_CODES = {
    "nv12": "COLOR_YUV2RGB_NV12",
    "yuyv": "COLOR_YUV2RGB_YUY2",
    "bgr": "COLOR_BGR2RGB",
    "bgrx": "COLOR_BGRA2RGB",
    "rgbx": "COLOR_RGBA2RGB",
    "gray": "COLOR_GRAY2RGB",
}

_RED_V, _GREEN_U, _GREEN_V, _BLUE_U = 1.596027, -0.391762, -0.812968, 2.017232
_LUMA = 255 / 219


@lru_cache(maxsize=1)
def opencv() -> Any | None:
    """Load OpenCV with its threads off: the runtime's threads are pipelines; None when not there."""
    try:
        import cv2
    except ImportError:
        return None
    cv2.setNumThreads(1)
    return cv2


def to_rgb(data: Pixels, pixel_format: PixelFormat) -> Pixels:
    """Give a frame's pixels as h×w×3 RGB; `data` itself when they are.

    Args:
        data: as `edgetrt.types.Frame` says for the format; YUV of even sizes.
        pixel_format: how to read it.
    """
    if pixel_format == "rgb":
        return data
    cv2 = opencv()
    if cv2 is None:
        return to_rgb_with_numpy(data, pixel_format)
    converted: Pixels = cv2.cvtColor(np.ascontiguousarray(data), getattr(cv2, _CODES[pixel_format]))
    return converted


def to_rgb_with_numpy(data: Pixels, pixel_format: PixelFormat) -> Pixels:
    """`to_rgb` where there is no OpenCV."""
    if pixel_format == "gray":
        return np.repeat(data[:, :, None], 3, axis=2)
    if pixel_format == "nv12":
        rows = len(data) * 2 // 3
        pairs = data[rows:].reshape(rows // 2, -1, 2).repeat(2, axis=0).repeat(2, axis=1)
        return _from_yuv(data[:rows], pairs[:, :, 0], pairs[:, :, 1])
    if pixel_format == "yuyv":
        u, v = (data[:, start::2, 1].repeat(2, axis=1) for start in (0, 1))
        return _from_yuv(data[:, :, 0], u, v)
    turned = data[:, :, 2::-1] if pixel_format in ("bgr", "bgrx") else data[:, :, :3]
    return np.ascontiguousarray(turned)


def _from_yuv(luma: Pixels, u: Pixels, v: Pixels) -> Pixels:
    y = (luma.astype(np.float32) - 16) * np.float32(_LUMA)
    cb, cr = u.astype(np.float32) - 128, v.astype(np.float32) - 128
    planes = (y + _RED_V * cr, y + _GREEN_U * cb + _GREEN_V * cr, y + _BLUE_U * cb)
    return np.stack([np.rint(plane).clip(0, 255) for plane in planes], axis=2).astype(np.uint8)
