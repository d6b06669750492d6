"""Where a frame lies in a tensor, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetrt.geometry import Fit, Region, Resize, fit

sizes = st.tuples(st.integers(1, 4000), st.integers(1, 4000))
ways = st.sampled_from(["letterbox", "stretch", "crop"])


@pytest.mark.parametrize(
    ("size", "into", "how", "expected"),
    [
        ((768, 576), (512, 384), "letterbox", Fit(Region(0, 0, 768, 576), Region(0, 0, 512, 384))),
        ((100, 50), (64, 64), "letterbox", Fit(Region(0, 0, 100, 50), Region(0, 16, 64, 32))),
        ((50, 100), (64, 64), "letterbox", Fit(Region(0, 0, 50, 100), Region(16, 0, 32, 64))),
        ((100, 50), (64, 64), "stretch", Fit(Region(0, 0, 100, 50), Region(0, 0, 64, 64))),
        ((100, 50), (64, 64), "crop", Fit(Region(25, 0, 50, 50), Region(0, 0, 64, 64))),
        ((50, 100), (64, 64), "crop", Fit(Region(0, 25, 50, 50), Region(0, 0, 64, 64))),
        ((4000, 1), (64, 64), "letterbox", Fit(Region(0, 0, 4000, 1), Region(0, 31, 64, 1))),
    ],
)
def test_known_fits(
    size: tuple[int, int], into: tuple[int, int], how: Resize, expected: Fit
) -> None:
    assert fit(size, into, how) == expected


@given(sizes, sizes, ways)
def test_nothing_reaches_outside(size: tuple[int, int], into: tuple[int, int], how: Resize) -> None:
    placed = fit(size, into, how)
    for region, (width, height) in ((placed.take, size), (placed.put, into)):
        assert region.left >= 0
        assert region.top >= 0
        assert region.width >= 1
        assert region.height >= 1
        assert region.left + region.width <= width
        assert region.top + region.height <= height
    if how != "letterbox":
        assert placed.put == Region(0, 0, *into)
    if how != "crop":
        assert placed.take == Region(0, 0, *size)


@given(sizes, sizes, ways)
def test_what_was_put_maps_back_to_what_was_taken(
    size: tuple[int, int], into: tuple[int, int], how: Resize
) -> None:
    placed = fit(size, into, how)
    take, put = placed.take, placed.put
    corners = [put.left, put.top, put.left + put.width, put.top + put.height]
    (box,) = placed.to_frame(np.array([corners], np.float32), size)
    expected = [take.left, take.top, take.left + take.width, take.top + take.height]
    assert box == pytest.approx(expected, abs=0.01)


def test_boxes_that_reach_into_the_padding_end_at_the_frame() -> None:
    placed = fit((100, 50), (64, 64), "letterbox")
    boxes = np.array([[-5, 0, 70, 64], [32, 32, 48, 40]], np.float32)
    mapped = placed.to_frame(boxes, (100, 50))
    assert mapped is boxes
    assert mapped.tolist() == [[0, 0, 100, 50], [50, 25, 75, 37.5]]
    assert placed.to_frame(np.zeros((0, 4), np.float32), (100, 50)).shape == (0, 4)
