"""A buffer is never read beyond its end, whatever its caps promise; needs no GStreamer."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from edgetrt.errors import SourceLostError
from edgetrt.sources.gstreamer_frames import _packed

NV12 = ("nv12", 1)
SIZE = SimpleNamespace(width=4, height=2)


def test_rows_are_closed_up() -> None:
    memory = bytes(range(24))  # rows of 4 in steps of 8: two of Y, one of UV

    packed = _packed(memory, SIZE, NV12, [0, 16], [8, 8])

    assert packed.tolist() == [[0, 1, 2, 3], [8, 9, 10, 11], [16, 17, 18, 19]]
    assert packed.dtype == np.uint8


@pytest.mark.parametrize(
    ("length", "offsets", "strides"),
    [
        (19, [0, 16], [8, 8]),  # the last row is cut off
        (24, [0, 30], [8, 8]),  # the second plane is behind the end
        (24, [0, 16], [2, 8]),  # rows that overlap
    ],
)
def test_a_picture_that_is_too_short_is_refused(
    length: int, offsets: list[int], strides: list[int]
) -> None:
    with pytest.raises(SourceLostError, match="too short for 4×2 nv12"):
        _packed(bytes(length), SIZE, NV12, offsets, strides)
