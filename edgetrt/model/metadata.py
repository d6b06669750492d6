"""What an exporter wrote about the network: task, labels, stride, image size.

Ultralytics stores Python literals as text (`names` is the repr of a dict). They come with the model
and are not trusted: only flat literals of bounded length are evaluated, and whatever is malformed
becomes a note.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgetrt.types import TensorSpec

_MAX_CHARS = 1 << 20
_MAX_LABELS = 100_000
_MAX_PIXELS = 1 << 16
_MAX_STRIDE = 4096
_COORDINATES = 4
_NMS_FREE_COLUMNS = 6

# One token of a flat literal; a string has no line break inside.
_TOKEN = re.compile(
    r"""\s*(?:('(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")|(-?\d{1,9}(?:\.\d{1,9})?)|([\[\](){}:,]))\s*"""
)


@dataclass(frozen=True, slots=True)
class Metadata:
    """The exporter's statements, those that could be read.

    `image_size` is width and height in pixels; `notes` say what was ignored and why.
    """

    task: str | None = None
    labels: tuple[str, ...] = ()
    stride: int | None = None
    image_size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


def read_metadata(props: Mapping[str, str]) -> Metadata:
    """Read the keys that Ultralytics writes; never raises."""
    notes: list[str] = []
    return Metadata(
        task=props.get("task", "").strip() or None,
        labels=_labels(props.get("names"), notes),
        stride=_stride(props.get("stride"), notes),
        image_size=_image_size(props.get("imgsz"), notes),
        notes=tuple(notes),
    )


def guess_task(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> str:
    """`detect` when an image goes in and one table of boxes comes out, else `raw`.

    The two tables are [1, 4 + classes, candidates] and, with the suppression inside, [1, boxes, 6].
    """
    image = len(inputs) == 1 and image_size_of(inputs[0]) is not None
    if not image or len(outputs) != 1 or len(outputs[0].shape) != 3:
        return "raw"
    batch, rows, columns = outputs[0].shape
    if batch not in (1, -1):
        return "raw"
    suppressed = columns == _NMS_FREE_COLUMNS
    return "detect" if suppressed or _COORDINATES < rows < columns else "raw"


def image_size_of(tensor: TensorSpec) -> tuple[int, int] | None:
    """Width and height of an NCHW or NHWC image; -1 where dynamic, None when it is none."""
    channels = (1, 3, 4)
    if len(tensor.shape) != 4:
        return None
    _, first, second, last = tensor.shape
    if first in channels:
        return last, second
    return (second, first) if last in channels else None


def flat_literal(text: str) -> object:
    """Evaluate a number, a string, or one list, tuple or dict of them.

    Raises:
        ValueError: longer than allowed, nested, or anything else than a literal.
    """
    if len(text) > _MAX_CHARS:
        raise ValueError(f"{len(text)} characters, at most {_MAX_CHARS} are read")
    position = brackets = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise ValueError(f"no plain literal at character {position}")
        brackets += token.group(3) is not None and token.group(3) in "([{"
        position = token.end()
    if brackets > 1:  # nesting could exhaust the parser's stack
        raise ValueError("nested")
    try:
        return ast.literal_eval(text.strip())
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError("no plain literal") from error


def _labels(text: str | None, notes: list[str]) -> tuple[str, ...]:
    """Class names in the order of their index."""
    if text is None:
        return ()
    try:
        return _names(flat_literal(text))
    except ValueError as error:
        notes.append(f"metadata names ignored: {error}")
        return ()


def _names(value: object) -> tuple[str, ...]:
    """A list of names, or a dict of names by index."""
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or not value:
        raise ValueError("expected a dict or list of names")
    if len(value) > _MAX_LABELS or set(value) != set(range(len(value))):
        raise ValueError(f"expected the indexes 0..{len(value) - 1}")
    if not all(isinstance(name, str) for name in value.values()):
        raise ValueError("expected strings as names")
    return tuple(value[index] for index in range(len(value)))


def _stride(text: str | None, notes: list[str]) -> int | None:
    if text is None:
        return None
    try:
        value = flat_literal(text)
    except ValueError as error:
        notes.append(f"metadata stride ignored: {error}")
        return None
    if isinstance(value, (list, tuple)) and value:
        value = value[-1]
    if isinstance(value, (int, float)) and value == int(value) and 1 <= value <= _MAX_STRIDE:
        return int(value)
    notes.append(f"metadata stride ignored: expected 1..{_MAX_STRIDE}, got {text[:40]!r}")
    return None


def _image_size(text: str | None, notes: list[str]) -> tuple[int, int] | None:
    """`[height, width]` or one number for both, to width and height."""
    if text is None:
        return None
    try:
        value = flat_literal(text)
    except ValueError as error:
        notes.append(f"metadata imgsz ignored: {error}")
        return None
    sides = (value, value) if isinstance(value, int) else value
    if (
        isinstance(sides, (list, tuple))
        and len(sides) == 2
        and all(isinstance(side, int) and 1 <= side <= _MAX_PIXELS for side in sides)
    ):
        return int(sides[1]), int(sides[0])
    notes.append(f"metadata imgsz ignored: expected [height, width], got {text[:40]!r}")
    return None
