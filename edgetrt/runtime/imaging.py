"""Resizing and plane splitting on the CPU: OpenCV where the machine has it, Pillow and numpy otherwise.

OpenCV's bilinear resize is several times faster than Pillow's (docs/adr/0002-opencv-resize.md). The two
differ in kind as well: OpenCV samples, Pillow averages over the source area when it shrinks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgetrt.pixels import opencv

Pixels = NDArray[np.uint8]

BILINEAR: Any = 2  # Image.BILINEAR, by value: the name moved in Pillow 9.1


def resizer() -> str:
    """Name what does the resizing, for `doctor` and for benchmarks."""
    return "opencv" if opencv() is not None else "pillow"


def resize(source: Pixels, target: Pixels) -> None:
    """Resize bilinearly from h×w×3 `source` into h×w×3 `target`, which may be a part of a larger array."""
    if source.shape == target.shape:
        np.copyto(target, source)
        return
    cv2 = opencv()
    if cv2 is None:
        resize_with_pillow(source, target)
        return
    size = (target.shape[1], target.shape[0])
    cv2.resize(source, size, dst=target, interpolation=cv2.INTER_LINEAR)


def resize_with_pillow(source: Pixels, target: Pixels) -> None:
    """`resize` where there is no OpenCV."""
    height, width = target.shape[:2]
    image = Image.fromarray(np.ascontiguousarray(source))
    np.copyto(target, np.asarray(image.resize((width, height), BILINEAR)))


def split(source: Pixels, planes: Pixels) -> None:
    """Write h×w×3 `source` as 3×h×w `planes`."""
    cv2 = opencv()
    if cv2 is not None:
        cv2.split(source, list(planes))
    else:
        np.copyto(planes, source.transpose(2, 0, 1))
