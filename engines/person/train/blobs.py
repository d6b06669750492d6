"""What moves in front of a fixed camera; needs numpy and OpenCV."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from footage import Image
    from numpy.typing import NDArray
    from tracks import Box

    Blobs = NDArray[np.float64]


def foreground(frame: Image, background: Image, threshold: int) -> Image:
    """Mask of what differs from the background; plain darkening, a soft shadow, is left out."""
    a, b = frame.astype(np.float32), background.astype(np.float32)
    difference = np.abs(a - b).max(2)
    ratio = (a + 8) / (b + 8)
    brightest, darkest = ratio.max(2), ratio.min(2)
    shadow = (brightest < 1.0) & (darkest > 0.6) & (brightest - darkest < 0.12)
    mask = ((difference > threshold) & ~shadow).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    return cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((13, 5), np.uint8))


def find(mask: Image, least: int) -> Blobs:
    """Rows of x1, y1, x2, y2, area of the connected parts of at least `least` pixels."""
    stats = cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:]
    stats = stats[stats[:, 4] >= least].astype(np.float64)
    return np.concatenate((stats[:, :2], stats[:, :2] + stats[:, 2:4], stats[:, 4:5]), 1)


def fit_height(blobs: Blobs, width: int, height: int) -> tuple[float, float]:
    """Fit the perspective: height of a person = slope * row of the feet + offset.

    From blobs of a person's shape inside the picture; outliers are left out by and by.
    """
    w, h = blobs[:, 2] - blobs[:, 0], blobs[:, 3] - blobs[:, 1]
    inner = (blobs[:, 0] > 2) & (blobs[:, 2] < width - 2) & (blobs[:, 3] < height - 2)
    likely = inner & (h / w > 1.7) & (h / w < 4) & (h > 40)
    foot, tall = blobs[likely, 3], h[likely]
    keep = np.ones(len(foot), bool)
    slope = offset = 0.0
    for _ in range(12):
        slope, offset = (float(v) for v in np.polyfit(foot[keep], tall[keep], 1))
        keep = np.abs(tall / (slope * foot + offset) - 1) < 0.15
    return slope, offset


def singles(blobs: Blobs, line: tuple[float, float], width: int, height: int) -> list[Box]:
    """Boxes of the blobs that are one whole person, as the perspective wants them."""
    out = []
    for x1, y1, x2, y2, area in blobs:
        expected = max(line[0] * y2 + line[1], 30)
        tall, wide = (y2 - y1) / expected, (x2 - x1) / expected
        inside = x1 > 1 and x2 < width - 1 and y2 < height - 1
        solid = area > 0.3 * (x2 - x1) * (y2 - y1)
        if inside and solid and 0.82 < tall < 1.2 and 0.17 < wide < 0.58:
            out.append(np.array([x1, y1, x2, y2]))
    return out


def unexplained(blobs: Blobs, people: list[Box]) -> list[Box]:
    """Blobs that people cover by less than three quarters, a little enlarged."""
    out = []
    for x1, y1, x2, y2, area in blobs:
        cover = np.zeros((int(y2 - y1), int(x2 - x1)), bool)
        for box in people:
            left, top, right, bottom = np.round(box - (x1, y1, x1, y1)).astype(int).clip(0)
            cover[top:bottom, left:right] = True
        if cover.mean() < 0.75 and area > 120:
            out.append(np.array([x1 - 4, y1 - 4, x2 + 4, y2 + 4]))
    return out
