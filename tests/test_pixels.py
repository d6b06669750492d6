"""Camera formats become the colours they stand for, with OpenCV and without."""

from __future__ import annotations

import numpy as np
import pytest

from edgetrt.pixels import opencv, to_rgb, to_rgb_with_numpy
from edgetrt.types import PixelFormat

# Full-amplitude colour bars: R, G, B, and Y, U, V by ITU-R BT.601 section 2.5, in limited range.
BARS = [
    ((255, 255, 255), (235, 128, 128)),
    ((255, 255, 0), (210, 16, 146)),
    ((0, 255, 255), (170, 166, 16)),
    ((0, 255, 0), (145, 54, 34)),
    ((255, 0, 255), (106, 202, 222)),
    ((255, 0, 0), (81, 90, 240)),
    ((0, 0, 255), (41, 240, 110)),
    ((0, 0, 0), (16, 128, 128)),
]
FORMATS: list[PixelFormat] = ["rgb", "bgr", "gray", "rgbx", "bgrx", "nv12", "yuyv"]
WAYS = [to_rgb, to_rgb_with_numpy]


@pytest.mark.parametrize("way", WAYS[: 2 if opencv() is not None else 1])
@pytest.mark.parametrize(("rgb", "yuv"), BARS)
def test_colour_bars(way: object, rgb: tuple[int, int, int], yuv: tuple[int, int, int]) -> None:
    y, u, v = yuv
    nv12 = np.full((6, 4), y, np.uint8)
    nv12[4:] = (u, v, u, v)
    yuyv = np.array([[(y, u), (y, v)] * 2] * 4, np.uint8)
    for data, pixel_format in ((nv12, "nv12"), (yuyv, "yuyv")):
        got = way(data, pixel_format)  # type: ignore[operator]
        assert got.shape == (4, 4, 3)
        assert np.abs(got.astype(int) - rgb).max() <= 2


@pytest.mark.parametrize("pixel_format", FORMATS[1:])
def test_both_ways_agree(pixel_format: PixelFormat) -> None:
    if opencv() is None:
        pytest.skip("no OpenCV")
    shapes = {"gray": (16, 24), "nv12": (24, 24), "yuyv": (16, 24, 2), "bgr": (16, 24, 3)}
    data = np.random.default_rng(3).integers(
        0, 256, shapes.get(pixel_format, (16, 24, 4)), np.uint8
    )
    data = np.maximum(data, 16)  # blacker than black means nothing, and each clips it its own way
    ours, theirs = to_rgb_with_numpy(data, pixel_format), to_rgb(data, pixel_format)
    assert ours.shape == theirs.shape == (16, 24, 3)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_rgb_is_left_alone() -> None:
    data = np.zeros((2, 2, 3), np.uint8)
    assert to_rgb(data, "rgb") is data
