"""Where a frame lies in an input tensor, and the way back; pure, shared by the CPU and the GPU path.

Pixels are areas, not points: coordinate x covers x..x+1, so that scaling needs no half-pixel terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Resize = Literal["letterbox", "stretch", "crop"]


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle in whole pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Fit:
    """`take` of the frame is resized to `put` of the tensor; the rest of the tensor is padding."""

    take: Region
    put: Region

    def to_frame(self, boxes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        """Map n×4 x1 y1 x2 y2 from tensor pixels to frame pixels, in place, clipped to `size` (w, h)."""
        take, put = self.take, self.put
        for column, (start, offset, length, into, limit) in enumerate(
            (
                (take.left, put.left, take.width, put.width, size[0]),
                (take.top, put.top, take.height, put.height, size[1]),
            )
        ):
            axis = boxes[:, column::2]
            axis -= offset
            axis *= length / into
            axis += start
            axis.clip(0, limit, out=axis)
        return boxes


def fit(size: tuple[int, int], into: tuple[int, int], how: Resize) -> Fit:
    """Plan how a frame of `size` (width, height) goes into a tensor of `into` (width, height).

    `letterbox` keeps the aspect ratio and pads both sides evenly, `stretch` fills the tensor, `crop`
    keeps the aspect ratio and cuts the frame's longer side evenly.
    """
    (width, height), (wide, high) = size, into
    whole = Region(0, 0, width, height)
    if how == "stretch":
        return Fit(whole, Region(0, 0, wide, high))
    if how == "letterbox":
        scale = min(wide / width, high / height)
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
        return Fit(whole, Region((wide - w) // 2, (high - h) // 2, w, h))
    scale = max(wide / width, high / height)
    w, h = max(1, min(width, round(wide / scale))), max(1, min(height, round(high / scale)))
    return Fit(Region((width - w) // 2, (height - h) // 2, w, h), Region(0, 0, wide, high))
