"""A drawn street scene that knows exactly what is in it; for tests and machines without a camera.

    SyntheticSource("640x480", objects=5, seed=0, frames=None, rate_hz=None)

| option | meaning |
|---|---|
| `objects` | walking figures, 0 to 200 |
| `seed` | which scene; the same seed and size give the same frames everywhere |
| `frames` | end after so many; endless without it |
| `rate_hz` | deliver at this rate, as a camera would: the source is live |

Figures walk along straight lines over a textured ground, larger the nearer they are, and hide each other
as they pass. `Frame.truth` has a box around the figure's pixels for each that shows enough of itself;
a figure's box ends at the frame's edge, not where a nearer figure hides it.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from edgetrt.errors import SourceError
from edgetrt.ports import EndOfStream
from edgetrt.sources.pace import Pace
from edgetrt.types import Detections, Frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PHASES = 8
"""Pictures of one stride."""
Box = tuple[int, int, int, int]
"""x1 y1 x2 y2 in pixels."""

BICUBIC: Any = 3
BOX: Any = 4
"""Of PIL.Image, by value: the names moved in Pillow 9.1."""
_SHOWN = 0.3
"""Share of a figure's box that must lie in the frame, and not under nearer boxes, to be in the truth."""


@dataclass(frozen=True)
class Sprite:
    """One picture of a figure, cut to its pixels: `mask` says which, for each channel."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Walker:
    """A figure and its line: at frame n its left edge is at `start + speed * n`, wrapped to `span`."""

    sprites: tuple[Sprite, ...]
    ground: int
    start: float
    speed: float
    span: float
    margin: int
    stride: float

    def at(self, n: int) -> tuple[Sprite, int, int]:
        """Return sprite, left and top at frame `n`."""
        travelled = self.start + self.speed * n
        sprite = self.sprites[int(abs(travelled) / self.stride) % len(self.sprites)]
        left = round(travelled % self.span) - self.margin
        return sprite, left, self.ground - sprite.mask.shape[0]


class SyntheticSource:
    """Frames of a drawn scene with exact ground truth; frame n depends on size, seed and n alone.

    Args:
        size: `WIDTHxHEIGHT`, or the two numbers.
        objects: how many figures.
        seed: which scene.
        frames: how many frames; None or 0 = endless.
        rate_hz: deliver at this rate and be live.

    Raises:
        SourceError: a size or a number of figures that cannot be drawn.
    """

    def __init__(
        self,
        size: str | tuple[int, int] = "640x480",
        *,
        objects: int = 5,
        seed: int = 0,
        frames: int | None = None,
        rate_hz: float | None = None,
    ) -> None:
        width, height = _numbers(size)
        if not (32 <= width <= 8192 and 32 <= height <= 8192):
            raise SourceError(f"synthetic: expected a size of 32x32 to 8192x8192, got {size}")
        if not 0 <= objects <= 200:
            raise SourceError(f"synthetic: expected 0 to 200 objects, got {objects}")
        random = np.random.default_rng(seed)
        self._background = paint_ground(width, height, random)
        walkers = [make_walker(width, height, random) for _ in range(objects)]
        self._walkers = sorted(walkers, key=lambda walker: walker.ground)
        self._frames = frames or None
        self._closed = threading.Event()
        self._rate_hz = rate_hz
        self._pace = Pace(rate_hz, self._closed) if rate_hz else None
        self._seq = 0

    @property
    def live(self) -> bool:
        """True when it was asked to keep time."""
        return self._pace is not None

    @property
    def reconnects(self) -> int:
        """Always 0."""
        return 0

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next frame; None only when keeping time and none is due within `timeout_s`."""
        if self._closed.is_set() or self._seq == self._frames:
            raise EndOfStream
        if self._pace is not None and not self._pace.wait(timeout_s):
            return None
        captured_ns = time.monotonic_ns()
        data, truth = self.draw(self._seq)
        frame = Frame(data, "rgb", self._seq, captured_ns, truth, self._rate_hz)
        self._seq += 1
        return frame

    def close(self) -> None:
        """Stop delivering."""
        self._closed.set()

    def draw(self, n: int) -> tuple[NDArray[np.uint8], Detections]:
        """Return picture and truth of frame `n`."""
        picture = self._background.copy()
        height, width = picture.shape[:2]
        boxes: list[Box] = []
        wholes: list[int] = []
        for walker in self._walkers:
            sprite, left, top = walker.at(n)
            h, w = sprite.mask.shape[:2]
            x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + w, width), min(top + h, height)
            if x1 >= x2 or y1 >= y2:
                continue
            part = np.s_[y1 - top : y2 - top, x1 - left : x2 - left]
            np.copyto(picture[y1:y2, x1:x2], sprite.pixels[part], where=sprite.mask[part])
            box: Box | None = (x1, y1, x2, y2)
            if (x2 - x1, y2 - y1) != (w, h):  # cut by the frame: a leg alone has no head's height
                box = around(sprite.mask[part], x1, y1)
            if box is not None:
                boxes.append(box)
                wholes.append(w * h)
        return picture, truth_of(boxes, wholes)


def around(mask: NDArray[np.bool_], left: int, top: int) -> Box | None:
    """The box around the true pixels of a mask whose corner lies at `left`, `top`; None without any."""
    rows, columns = np.nonzero(mask[..., 0] if mask.ndim == 3 else mask)
    if not len(rows):
        return None
    return (
        left + int(columns.min()),
        top + int(rows.min()),
        left + int(columns.max()) + 1,
        top + int(rows.max()) + 1,
    )


def truth_of(boxes: list[Box], wholes: list[int]) -> Detections:
    """Keep the boxes, ordered far to near, that show enough of their whole area.

    What nearer boxes hide is summed pair by pair, so that several over one spot count more than once:
    in doubt a figure is left out.
    """
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    low = np.maximum(array[:, None, :2], array[None, :, :2])
    high = np.minimum(array[:, None, 2:], array[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    area = (array[:, 2:] - array[:, :2]).prod(axis=1)
    shown = area - np.triu(shared, 1).sum(axis=1)
    kept = array[shown >= _SHOWN * np.array(wholes, dtype=np.float32)]
    return Detections(
        kept, np.ones(len(kept), dtype=np.float32), np.zeros(len(kept), dtype=np.int32)
    )


def paint_ground(width: int, height: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Paint noise of several grain sizes, darker towards the top, with a few blocks and lanes."""
    ground = np.zeros((height, width), dtype=np.float32)
    for grain, strength in ((64, 14.0), (16, 7.0), (4, 5.0), (1, 4.0)):
        shape = (height // grain + 2, width // grain + 2)
        noise = random.normal(0.0, strength, shape).astype(np.float32)
        image = Image.fromarray(noise).resize((width, height), BICUBIC)
        ground += np.asarray(image)
    ground += np.linspace(95.0, 150.0, height, dtype=np.float32)[:, None]
    tint = np.array(random.uniform(0.9, 1.1, 3), dtype=np.float32)
    image = Image.fromarray(np.clip(ground[:, :, None] * tint, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(6):  # what stands in a street: boxes, posts, signs
        x, y = int(random.integers(0, width)), int(random.integers(0, height // 3))
        right = x + int(random.integers(width // 40 + 1, width // 6 + 2))
        bottom = y + int(random.integers(2, height // 3))
        colour = tuple(int(c) for c in random.integers(60, 190, 3))
        pen.rectangle((x, y, right, bottom), fill=colour)
    for _ in range(3):
        y = int(random.integers(height // 3, height))
        slope = int(random.integers(-height // 12, height // 12))
        pen.line((0, y, width, y + slope), fill=(190, 190, 190))
    return np.array(image)


def make_walker(width: int, height: int, random: np.random.Generator) -> Walker:
    """Draw a figure's stride and give it a line through the frame."""
    depth = float(random.uniform(0.0, 1.0))
    tall = max(8, round(height * (0.16 + 0.34 * depth) * float(random.uniform(0.9, 1.1))))
    speed = float(random.uniform(0.008, 0.02)) * tall * float(random.choice((-1.0, 1.0)))
    skin, shirt, trousers = (tuple(int(c) for c in random.integers(20, 236, 3)) for _ in range(3))
    sprites = tuple(
        draw_figure(tall, phase / _PHASES, skin, shirt, trousers, faces_left=speed < 0)
        for phase in range(_PHASES)
    )
    margin = max(sprite.mask.shape[1] for sprite in sprites)
    span = float(width + 2 * margin)
    ground = round(height * (0.42 + 0.55 * depth))
    start = float(random.uniform(0.0, span))
    return Walker(sprites, ground, start, speed, span, margin, stride=tall / (2.0 * _PHASES))


def draw_figure(
    tall: int,
    phase: float,
    skin: tuple[int, ...],
    shirt: tuple[int, ...],
    trousers: tuple[int, ...],
    *,
    faces_left: bool,
) -> Sprite:
    """Draw a walking figure, larger than wanted and then reduced; `phase` 0..1 of its stride."""
    h = tall * max(1, min(4, 480 // tall))
    image = Image.new("RGBA", (h // 2, h), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    middle, hip, swing = h / 4, 0.54 * h, float(np.sin(2 * np.pi * phase)) * 0.13 * h
    for side, shade in ((-1, 0.8), (1, 1.0)):  # the far limbs first, darker
        leg = tuple(int(c * shade) for c in trousers)
        arm = tuple(int(c * shade) for c in shirt)
        foot = middle + side * swing
        pen.line((middle, hip, foot, 0.97 * h), fill=(*leg, 255), width=round(0.085 * h))
        pen.ellipse((foot - 0.05 * h, 0.93 * h, foot + 0.08 * h, h - 1), fill=(30, 30, 34, 255))
        hand = middle - side * swing * 0.9
        pen.line((middle, 0.22 * h, hand, 0.52 * h), fill=(*arm, 255), width=round(0.06 * h))
    body = (middle - 0.095 * h, 0.16 * h, middle + 0.095 * h, 0.58 * h)
    pen.rounded_rectangle(body, radius=0.07 * h, fill=(*shirt, 255))
    pen.ellipse((middle - 0.06 * h, 0, middle + 0.065 * h, 0.15 * h), fill=(*skin, 255))
    if faces_left:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    small = np.asarray(image.resize((tall // 2, tall), BOX))
    opaque = small[:, :, 3] >= 128
    rows, columns = np.flatnonzero(opaque.any(axis=1)), np.flatnonzero(opaque.any(axis=0))
    cut = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    mask = np.repeat(opaque[cut][:, :, None], 3, axis=2)
    return Sprite(np.ascontiguousarray(small[cut][:, :, :3]), mask)


def _numbers(size: str | tuple[int, int]) -> tuple[int, int]:
    if not isinstance(size, str):
        return size
    width, x, height = size.partition("x")
    if not (x and width.isdigit() and height.isdigit()):
        raise SourceError(f"synthetic: expected a size such as 640x480, got {size!r}")
    return int(width), int(height)
