"""The preprocessing in plain numpy: colour, fit, bilinear resize without averaging, scale, layout."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgetrt.config import PreprocessConfig
from edgetrt.geometry import fit
from edgetrt.gpu.layout import BT601, YuvMatrix, frame_shape
from edgetrt.types import Frame, PixelFormat

Pixels = NDArray[np.uint8]
FORMATS: tuple[PixelFormat, ...] = ("nv12", "yuyv", "rgb", "bgr", "rgbx", "bgrx", "gray")


def random_frame(
    size: tuple[int, int], pixel_format: PixelFormat, seed: int, seq: int = 0
) -> Frame:
    """Noise: every wrong index shows."""
    shape = frame_shape(size, pixel_format)
    data = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return Frame(data, pixel_format, seq, 0)


def to_rgb(frame: Frame, matrix: YuvMatrix = BT601) -> Pixels:
    """Whole-pixel RGB; chroma belongs to all pixels of its pair or square."""
    data = frame.data
    width, height = frame.size
    if frame.format == "nv12":
        pairs = data[height:].reshape(height // 2, width // 2, 2)
        pairs = pairs.repeat(2, axis=0).repeat(2, axis=1)
        return yuv_to_rgb(data[:height], pairs[..., 0], pairs[..., 1], matrix)
    if frame.format == "yuyv":
        pairs = data.reshape(height, width // 2, 4)
        u, v = (pairs[..., i].repeat(2, axis=1) for i in (1, 3))
        return yuv_to_rgb(data[..., 0], u, v, matrix)
    if frame.format == "gray":
        return np.repeat(data[:, :, None], 3, axis=2)
    order = [2, 1, 0] if frame.format in ("bgr", "bgrx") else [0, 1, 2]
    return data[..., order]


def yuv_to_rgb(y: Pixels, u: Pixels, v: Pixels, matrix: YuvMatrix) -> Pixels:
    luma = (y.astype(np.float64) - matrix.y_offset) * matrix.y_gain
    cb, cr = u.astype(np.float64) - 128, v.astype(np.float64) - 128
    rgb = np.stack(
        (
            luma + matrix.v_red * cr,
            luma + matrix.u_green * cb + matrix.v_green * cr,
            luma + matrix.u_blue * cb,
        ),
        axis=-1,
    )
    return np.rint(rgb.clip(0, 255)).astype(np.uint8)


def resize(image: Pixels, size: tuple[int, int]) -> NDArray[np.float64]:
    """Bilinear with half-pixel centres, borders repeated."""
    out = image.astype(np.float64)
    for axis, wanted in ((0, size[1]), (1, size[0])):
        length = out.shape[axis]
        where = ((np.arange(wanted) + 0.5) * length / wanted - 0.5).clip(0, length - 1)
        low = np.floor(where).astype(int)
        high = np.minimum(low + 1, length - 1)
        weight = (where - low).reshape([-1 if i == axis else 1 for i in range(3)])
        out = out.take(low, axis) * (1 - weight) + out.take(high, axis) * weight
    return out


def preprocess(
    frame: Frame,
    into: tuple[int, int],
    config: PreprocessConfig,
    *,
    planar: bool = True,
    matrix: YuvMatrix = BT601,
) -> NDArray[np.float64]:
    """One image of the input tensor."""
    rgb = to_rgb(frame, matrix)
    placed = fit(frame.size, into, config.resize)
    take, put = placed.take, placed.put
    part = rgb[take.top : take.top + take.height, take.left : take.left + take.width]
    canvas = np.full((into[1], into[0], 3), float(config.pad))
    canvas[put.top : put.top + put.height, put.left : put.left + put.width] = resize(
        part, (put.width, put.height)
    )
    if config.color == "bgr":
        canvas = canvas[..., ::-1]
    out = (canvas * config.scale - np.array(config.mean)) / np.array(config.std)
    return out.transpose(2, 0, 1) if planar else out
