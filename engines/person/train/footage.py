"""Frames of a video and boxes in MOT's text format; needs numpy and OpenCV."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Rows = NDArray[np.float32]

NOBODY: Rows = np.zeros((0, 5), np.float32)


def read_frames(path: Path, first: int, last: int, step: int = 1) -> Iterator[tuple[int, Image]]:
    """Yield (number, BGR frame) for frames first..last, counted from 1, both included.

    Raises:
        SystemExit: the video ends, or cannot be opened, before `first`.
    """
    capture, number = cv2.VideoCapture(str(path)), 0
    while number < last:
        ok, frame = capture.read()
        if not ok:
            break
        number += 1
        if number >= first and (number - first) % step == 0:
            yield number, frame
    if number < first:
        raise SystemExit(f"{path}: expected frame {first}, got {number} frames in all")


def read_boxes(path: Path) -> dict[int, Rows]:
    """Read MOT text into {frame: rows of x1, y1, x2, y2, flag}; flag 0 is a region to ignore."""
    rows: dict[int, list[list[float]]] = {}
    for frame, _, x, y, w, h, flag in np.loadtxt(path, delimiter=",", ndmin=2)[:, :7]:
        rows.setdefault(int(frame), []).append([x, y, x + w, y + h, flag])
    return {frame: np.array(boxes, np.float32) for frame, boxes in rows.items()}
