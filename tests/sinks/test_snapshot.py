"""A picture of a given size at most."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from edgetrt.errors import SinkError
from edgetrt.sinks.snapshot import jpeg
from edgetrt.types import Detections, Frame, Result

BOXES = Detections(
    np.array([[10, 10, 60, 80]], np.float32), np.array([0.9], np.float32), np.array([0], np.int32)
)


def result(width: int, height: int) -> Result:
    """A frame that compresses badly."""
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    return Result("street", Frame(noise, "rgb", 7, 0), BOXES, ("person",), "e", 1_000_000)


@pytest.mark.parametrize("most", [98_304, 30_000, 8_000, 4_096])
@pytest.mark.parametrize("size", [(320, 240), (1920, 1080)])
def test_a_picture_fits(size: tuple[int, int], most: int) -> None:
    try:
        data = jpeg(result(*size), most)
    except SinkError as error:
        assert size == (1920, 1080)
        assert "does not fit" in error.message
        return
    assert len(data) <= most
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "JPEG"
        assert picture.width / picture.height == pytest.approx(size[0] / size[1], rel=0.02)


def test_a_larger_limit_gives_a_better_picture() -> None:
    sizes = [len(jpeg(result(320, 240), most)) for most in (8_000, 30_000, 98_304)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_a_camera_s_own_format_is_drawn_in_its_colours() -> None:
    red = np.full((72, 64), 81, np.uint8)
    red[48:] = np.tile(np.array([90, 240], np.uint8), 32)
    picture = jpeg(replace(result(64, 48), frame=Frame(red, "nv12", 0, 0)), 98_304)
    corner = np.asarray(Image.open(io.BytesIO(picture)))[-2, -2]
    assert np.abs(corner.astype(int) - (255, 0, 0)).max() < 64, "red, as far as JPEG keeps it"
