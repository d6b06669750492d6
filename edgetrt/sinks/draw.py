"""Results drawn into the picture, for people."""

from __future__ import annotations

import colorsys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgetrt.pixels import to_rgb
from edgetrt.types import Detections

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgetrt.types import Frame, Result

Color = tuple[int, int, int]

_FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSans.ttf", "LiberationSans-Bold.ttf", "FreeSansBold.ttf")


def annotate(result: Result) -> NDArray[np.uint8]:
    """Draw boxes, labels and a headline into a copy of the result's frame.

    Returns:
        h×w×3 uint8, RGB.
    """
    image = Image.fromarray(rgb(result.frame))
    draw = ImageDraw.Draw(image, "RGBA")
    unit = max(1, round(min(image.size) / 240))
    font = _font(max(11, 6 * unit))
    text = result.pipeline
    if isinstance(result.output, Detections):
        for i in reversed(range(len(result.output))):  # the best lies on top
            _box(draw, font, unit, result, i)
        text += f"   {len(result.output)} found"
    text += f"   {result.latency_ns / 1e6:.1f} ms   frame {result.frame.seq}"
    _headline(draw, font, unit, text)
    return np.asarray(image)


def rgb(frame: Frame) -> NDArray[np.uint8]:
    """The frame's pixels as contiguous h×w×3 RGB."""
    return np.ascontiguousarray(to_rgb(frame.data, frame.format))


def color(index: int) -> Color:
    """A bright colour per class; neighbours differ most, by the golden angle."""
    red, green, blue = colorsys.hsv_to_rgb((0.33 + index * 0.618034) % 1.0, 0.85, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _box(draw: ImageDraw.ImageDraw, font: Any, unit: int, result: Result, i: int) -> None:
    found = result.output
    assert isinstance(found, Detections)  # noqa: S101 - the caller looked
    index = int(found.classes[i])
    name = result.labels[index] if 0 <= index < len(result.labels) else str(index)
    tint = color(index)
    if not np.isfinite(found.boxes[i]).all():
        return
    left, right = sorted(map(float, found.boxes[i, ::2]))  # Pillow refuses boxes that are turned
    top, bottom = sorted(map(float, found.boxes[i, 1::2]))
    draw.rectangle((left, top, right, bottom), outline=tint, width=unit)
    text = f"{name} {found.scores[i]:.2f}"
    text, (x0, y0, x1, y1) = _measured(draw, font, text)
    width, height = x1 - x0 + 2 * unit, y1 - y0 + 2 * unit
    x = max(0.0, min(left, result.frame.size[0] - width))  # the label stays inside the picture
    y = top - height if top >= height else top
    draw.rectangle((x, y, x + width, y + height), fill=(*tint, 210))
    draw.text((x + unit - x0, y + unit - y0), text, fill=(0, 0, 0), font=font)


def _headline(draw: ImageDraw.ImageDraw, font: Any, unit: int, text: str) -> None:
    text, (x0, y0, x1, y1) = _measured(draw, font, text)
    pad = 3 * unit
    draw.rectangle((0, 0, x1 - x0 + 2 * pad, y1 - y0 + 2 * pad), fill=(0, 0, 0, 170))
    draw.text((pad - x0, pad - y0), text, fill=(255, 255, 255), font=font)


def _measured(
    draw: ImageDraw.ImageDraw, font: Any, text: str
) -> tuple[str, tuple[float, float, float, float]]:
    """The text as this font can draw it on one line, and its box."""
    line = " ".join(text.split("\n"))
    if isinstance(font, ImageFont.FreeTypeFont):
        return line, draw.textbbox((0, 0), line, font=font)
    plain = line.encode("latin-1", "replace").decode("latin-1")  # Pillow's own font has no more
    width, height = font.getmask(plain).size
    return plain, (0, 0, width, height)


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    """A scalable font where there is one, Pillow's own otherwise."""
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size
        return ImageFont.load_default()
