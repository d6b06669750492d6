"""Object detection: output tensors to boxes, scores and classes in pixels of the frame.

Layouts are told apart by the output's shape alone:

- `[1, 4+classes, N]`: one column per candidate, centre x, centre y, width, height and a score per class
  (YOLOv8, v9, v11 as Ultralytics exports them). Needs non-maximum suppression.
  A device may have filtered it by score already: then it comes as a structured array of `box`, `score` and
  `label`, one row per candidate that reached the limit (edgetrt.gpu.detect).
- `[1, N, 6]`: x1 y1 x2 y2 score class (YOLOv10, YOLO26, exports with NMS inside). Needs none.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import ConfigError, InferenceError, ModelError
from edgetrt.types import Detections

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgetrt.config import TaskConfig
    from edgetrt.geometry import Fit
    from edgetrt.types import TensorSpec

Floats = NDArray[np.float32]

CANDIDATES = 1000
"""Boxes that enter the suppression, best first; the quadratic step stays under a few milliseconds."""


PAIRS = 256
"""Up to so many boxes all pairs are compared at once; beyond, a row at a time costs less."""

NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
"""No object."""

TUNABLE_FROM = 0.05
"""A device leaves every candidate from this score on, so that the limit can change while it runs."""


FILTERED_FROM = 1 << 17
"""Values of a head from which copying it off a device and reading it costs tens of microseconds; below, a
filter on the device gains nothing (docs/gpu.md)."""


@dataclass(frozen=True)
class Limits:
    """Which candidates count. `classes` is a boolean per class, or None for all."""

    score: float
    iou: float
    most: int
    classes: NDArray[np.bool_] | None = None

    @cached_property
    def score_bits(self) -> int:
        """The score's float32, read as an unsigned integer; see `nobody`."""
        return int(np.float32(max(self.score, 0.0)).view(np.uint32))


def limits_of(config: TaskConfig, labels: tuple[str, ...]) -> Limits:
    """The limits of a config.

    Raises:
        ConfigError: `only` names a class that the network does not have.
    """
    return Limits(config.score, config.iou, config.max_objects, _mask(config.only, labels))


class Detector:
    """Decodes one network's output; made once per session.

    Raises:
        ModelError: the outputs have none of the known layouts.
        ConfigError: `only` names a class that the network does not have.
    """

    def __init__(
        self, outputs: Sequence[TensorSpec], labels: tuple[str, ...], config: TaskConfig
    ) -> None:
        self._name, self._decode = _decoder(outputs, labels)
        head = next(spec for spec in outputs if spec.name == self._name)
        self._values = math.prod(head.shape)
        self._config, self._labels = config, labels
        self._limits = limits_of(config, labels)

    def tuned(self, **limits: Any) -> Detector:
        """The same with other limits.

        Raises:
            ConfigError: as the class does, and for a score below what a device leaves.
        """
        score, lowest = limits.get("score"), self.filterable
        if score is not None and lowest is not None and score < lowest[1]:
            raise ConfigError(
                f"score {score:g}: at least {lowest[1]:g} while it runs",
                "Set a lower one in the recipe or the pipeline's file.",
            )
        other = copy.copy(self)
        other._limits = limits_of(msgspec.structs.replace(self._config, **limits), self._labels)
        return other

    @property
    def filterable(self) -> tuple[str, float] | None:
        """The output that a device may filter, and by which score; None where that is no gain."""
        large = self._values >= FILTERED_FROM and self._decode is decode_columns
        return (self._name, self._config.score) if large else None

    def decode(
        self, tensors: Mapping[str, NDArray[np.generic]], placed: Fit, size: tuple[int, int]
    ) -> Detections:
        """Objects in pixels of a frame of `size` (w, h) that was `placed` in the input.

        Raises:
            InferenceError: the output holds NaN or infinity.
        """
        output = tensors[self._name]
        if self._empty(output):  # most frames of most cameras: worth leaving early for
            return NOTHING
        with np.errstate(invalid="ignore", over="ignore"):  # infinities are looked for below
            if output.dtype.names is not None:
                found = decode_candidates(output, self._limits)
            else:
                found = self._decode(np.asarray(output[0], np.float32), self._limits)
        if len(found):
            placed.to_frame(found.boxes, size)
        return found

    def _empty(self, output: NDArray[np.generic]) -> bool:
        """Say in one pass that nobody is there and all is well; False leaves it to a closer look."""
        if output.dtype.names is not None:
            return not len(output)
        if output.dtype != np.float32:
            return False
        scores = output[0, 4:] if self._decode is decode_columns else output[0, :, 4]
        return nobody(scores, self._limits)


def nobody(scores: NDArray[Any], limits: Limits) -> bool:
    """Say whether every float32 score is a number from 0 to below the limit.

    Read as unsigned integers, floats from 0 on keep their order, and whatever is negative, infinite or
    no number comes above all of them. So one maximum says it, which lets go of the interpreter once.
    """
    if not scores.size:
        return True
    return bool(np.maximum.reduce(scores.view(np.uint32), axis=None) < limits.score_bits)


def decode_columns(output: Floats, limits: Limits) -> Detections:
    """`[4+classes, N]` to suppressed boxes in tensor pixels."""
    scores = output[4] if len(output) == 5 else output[4:].max(axis=0)
    finite("scores", scores)
    picked = np.flatnonzero(scores >= limits.score)
    classes = np.zeros(len(picked), np.int32)
    if len(output) > 5:
        classes = output[4:, picked].argmax(axis=0).astype(np.int32)
    return _suppressed(output[:4, picked].T, scores[picked], classes, limits)


def decode_candidates(found: NDArray[np.generic], limits: Limits) -> Detections:
    """What a device has left of `[4+classes, N]`, in the head's order: the same boxes as from the whole."""
    rows: Any = found
    finite("scores", rows["score"])
    rows = rows[rows["score"] >= limits.score]
    return _suppressed(rows["box"], rows["score"], rows["label"], limits)


def _suppressed(
    centred: Floats, scores: Floats, classes: NDArray[np.int32], limits: Limits
) -> Detections:
    """Candidates (n×4 centre x, centre y, width, height) to the boxes that stay, best first."""
    if limits.classes is not None:
        wanted = limits.classes[classes]
        centred, scores, classes = centred[wanted], scores[wanted], classes[wanted]
    order = np.argsort(-scores, kind="stable")[:CANDIDATES]
    centred, scores, classes = centred[order], scores[order], classes[order]
    centre, half = centred[:, :2], centred[:, 2:] * np.float32(0.5)
    boxes = np.concatenate((centre - half, centre + half), axis=1)
    finite("boxes", boxes)
    kept = suppress(boxes, classes, limits.iou, limits.most)
    return Detections(boxes[kept], scores[kept], classes[kept])


def decode_rows(output: Floats, limits: Limits) -> Detections:
    """`[N, 6]` to boxes in tensor pixels, best first; the network has suppressed duplicates itself."""
    scores = output[:, 4]
    finite("scores", scores)
    picked = np.flatnonzero(scores >= limits.score)
    classes = output[picked, 5].astype(np.int32)
    if limits.classes is not None:
        inside = (classes >= 0) & (classes < len(limits.classes))
        wanted = inside & limits.classes[np.where(inside, classes, 0)]
        picked, classes = picked[wanted], classes[wanted]
    order = np.argsort(-scores[picked], kind="stable")[: limits.most]
    boxes = output[picked[order], :4]
    finite("boxes", boxes)
    return Detections(boxes, scores[picked[order]], classes[order])


def suppress(boxes: Floats, classes: NDArray[np.int32], iou: float, most: int) -> NDArray[np.intp]:
    """Greedy non-maximum suppression within each class.

    Args:
        boxes: n×4 x1 y1 x2 y2, best first.
        classes: n.
        iou: of two boxes of a class that overlap by more than this, the later one goes.
        most: how many to keep.

    Returns:
        Indices of the kept boxes, best first.
    """
    if len(boxes) < 2:
        return np.arange(min(len(boxes), most))
    if len(boxes) <= PAIRS:
        return _suppress_few(_rivals(boxes, classes, iou), most)
    alive = np.ones(len(boxes), bool)
    kept: list[int] = []
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        kept.append(i)
        if len(kept) == most:
            break
        alive &= ~_rivals(boxes, classes, iou, i)[0]
    return np.asarray(kept, np.intp)


def _suppress_few(rivals: NDArray[np.bool_], most: int) -> NDArray[np.intp]:
    """The same from all pairs at once: a row of them is one integer, which costs no call of numpy."""
    rows, width = np.packbits(rivals, axis=1, bitorder="little").tobytes(), -(-len(rivals) // 8)
    gone, kept = 0, []
    for i in range(len(rivals)):
        if gone >> i & 1:
            continue
        kept.append(i)
        if len(kept) == most:
            break
        gone |= int.from_bytes(rows[i * width : (i + 1) * width], "little")
    return np.asarray(kept, np.intp)


def _rivals(
    boxes: Floats, classes: NDArray[np.int32], iou: float, row: int | None = None
) -> NDArray[np.bool_]:
    """Which boxes of the same class overlap too much: n×n, or 1×n for one row."""
    mine = slice(None) if row is None else slice(row, row + 1)
    left, top, right, bottom = np.ascontiguousarray(boxes.T)
    width = np.minimum(right[mine, None], right) - np.maximum(left[mine, None], left)
    height = np.minimum(bottom[mine, None], bottom) - np.maximum(top[mine, None], top)
    overlap = np.maximum(width, 0) * np.maximum(height, 0)
    areas = (right - left) * (bottom - top)
    union = areas[mine, None] + areas - overlap
    clash: NDArray[np.bool_] = (overlap > iou * union) & (classes[mine, None] == classes)
    return clash


def _decoder(
    outputs: Sequence[TensorSpec], labels: tuple[str, ...]
) -> tuple[str, Callable[[Floats, Limits], Detections]]:
    """Pick the decoder by the shape of the first output that has a known one."""
    for spec in outputs:
        if len(spec.shape) != 3 or spec.shape[0] not in (1, -1):
            continue
        _, rows, columns = spec.shape
        if rows == 4 + len(labels) if labels else 5 <= rows < columns:
            return spec.name, decode_columns
        if columns == 6:
            return spec.name, decode_rows
    shapes = ", ".join(f"{o.name} {list(o.shape)}" for o in outputs)
    expected = f"[1, {4 + len(labels)}, N]" if labels else "[1, 4+classes, N]"
    raise ModelError(
        f"no output has a detection layout: got {shapes}; expected {expected} or [1, N, 6]",
        "Export with Ultralytics' default head, or set `task: {kind: raw}` to get the tensors.",
    )


def _mask(only: tuple[str, ...] | None, labels: tuple[str, ...]) -> NDArray[np.bool_] | None:
    if only is None:
        return None
    for name in only:
        if name not in labels:
            raise ConfigError(
                f"task.only: the network has no class {name!r}",
                f"Its classes are: {', '.join(labels) or '(no names in the file)'}.",
            )
    return np.array([label in only for label in labels], bool)


def finite(what: str, values: Floats) -> None:
    """Refuse NaN and infinity: a sum is finite only when every value is, and asking it is cheap."""
    if not np.isfinite(values.sum()):
        raise InferenceError(
            f"the network's {what} hold NaN or infinity",
            "Often an FP16 overflow: build with --precision fp32 to see whether it goes away.",
        )
