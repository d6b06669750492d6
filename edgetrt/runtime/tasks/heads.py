"""Detection from the heads themselves, for networks that leave their decoding outside.

A DLA takes neither the sigmoid nor the concatenation in pixels at a detector's end, and INT8 cannot hold
pixels and scores in one tensor. Such a network is cut before them: per stride S it gives the tensors
`box_sS` [1, 4, h, w] and `cls_sS` [1, classes, h, w], and its metadata key `head` has the formula of a side:

    d = (2*sigmoid(box))**2 * REACH * stride     left, top, right, bottom of the cell's centre, in pixels
    score = sigmoid(cls)

Only cells whose score counts are decoded, so that this costs next to nothing on the CPU.
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgetrt.errors import ModelError
from edgetrt.runtime.tasks.detect import CANDIDATES, Floats, finite, limits_of, suppress
from edgetrt.types import Detections

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from edgetrt.config import TaskConfig
    from edgetrt.geometry import Fit
    from edgetrt.types import TensorSpec

_FORMULA = re.compile(r"d = \(2\*sigmoid\(box\)\)\*\*2 \* (?P<reach>\d+(?:\.\d+)?) \* stride")
_NAME = re.compile(r"(?:box|cls)_s(?P<stride>\d+)")


@dataclass(frozen=True)
class Head:
    """One stride's pair of tensors, by name."""

    box: str
    cls: str
    stride: int


class HeadDetector:
    """Decodes and suppresses the boxes of a network without a decode of its own.

    Args:
        metadata: the JSON of the key `head`.
        outputs: of the network.
        labels: class names.
        config: limits.

    Raises:
        ModelError: a formula or tensors other than those above.
        ConfigError: `only` names a class that the network does not have.
    """

    def __init__(
        self,
        metadata: str,
        outputs: Sequence[TensorSpec],
        labels: tuple[str, ...],
        config: TaskConfig,
    ) -> None:
        self._reach = _reach(metadata)
        self._heads = _heads({spec.name: spec.shape for spec in outputs})
        self._config, self._labels = config, labels
        self._limits = limits_of(config, labels)

    def tuned(self, **limits: Any) -> HeadDetector:
        """The same with other limits; raises ConfigError as the class does."""
        other = copy.copy(self)
        other._limits = limits_of(msgspec.structs.replace(self._config, **limits), self._labels)
        return other

    def decode(
        self, tensors: Mapping[str, NDArray[np.generic]], placed: Fit, size: tuple[int, int]
    ) -> Detections:
        """Objects in pixels of a frame of `size` (w, h) that was `placed` in the input.

        Raises:
            InferenceError: an output holds NaN or infinity.
        """
        with np.errstate(invalid="ignore", over="ignore"):  # infinities are looked for
            parts = [self._cells(tensors, head) for head in self._heads]
        boxes, scores, classes = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(-scores, kind="stable")[:CANDIDATES]
        boxes, scores, classes = boxes[order], scores[order], classes[order]
        kept = suppress(boxes, classes, self._limits.iou, self._limits.most)
        found = Detections(boxes[kept], scores[kept], classes[kept])
        placed.to_frame(found.boxes, size)
        return found

    def _cells(
        self, tensors: Mapping[str, NDArray[np.generic]], head: Head
    ) -> tuple[Floats, Floats, NDArray[np.int32]]:
        """Boxes, scores and classes of the cells of one stride that count."""
        logits = np.asarray(tensors[head.cls][0], np.float32)
        finite("scores", logits)
        classes, rows, columns = np.nonzero(logits >= _logit(self._limits.score))
        if self._limits.classes is not None:
            wanted = self._limits.classes[classes]
            classes, rows, columns = classes[wanted], rows[wanted], columns[wanted]
        sides = np.asarray(tensors[head.box][0], np.float32)[:, rows, columns].T
        finite("boxes", sides)
        distances = (2 * _sigmoid(sides)) ** 2 * np.float32(self._reach * head.stride)
        centres = (np.stack((columns, rows), axis=1) + 0.5).astype(np.float32) * head.stride
        boxes = np.concatenate((centres - distances[:, :2], centres + distances[:, 2:]), axis=1)
        scores = _sigmoid(logits[classes, rows, columns])
        return boxes, scores, classes.astype(np.int32)


def _reach(metadata: str) -> float:
    """The formula's constant."""
    try:
        said: Any = json.loads(metadata)
        match = _FORMULA.fullmatch(str(said["decode"]))
    except (ValueError, KeyError, TypeError):
        match = None
    if match is None:
        raise ModelError(
            f"metadata key `head`: {metadata[:120]!r} is no decode that edgetrt knows",
            "Set `task: {kind: raw}` to get the network's own tensors.",
        )
    return float(match["reach"])


def _heads(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Head, ...]:
    """Pair the tensors by stride; each pair covers the same cells."""
    strides = sorted({int(match["stride"]) for name in shapes if (match := _NAME.fullmatch(name))})
    heads = tuple(Head(f"box_s{s}", f"cls_s{s}", s) for s in strides)
    for head in heads:
        box, cls = shapes.get(head.box, ()), shapes.get(head.cls, ())
        if len(box) != 4 or len(cls) != 4 or box[1] != 4 or box[2:] != cls[2:]:
            raise ModelError(
                f"head of stride {head.stride}: {head.box} {list(box)} and {head.cls} {list(cls)}, "
                "expected [1, 4, h, w] and [1, classes, h, w]",
                "Export the heads as pairs, or set `task: {kind: raw}`.",
            )
    if not heads:
        raise ModelError(
            f"metadata key `head` promises box_sS and cls_sS tensors, got {', '.join(shapes)}",
            "Set `task: {kind: raw}` to get the network's own tensors.",
        )
    return heads


def _sigmoid(values: Floats) -> Floats:
    ones: Floats = np.ones(1, np.float32)
    return ones / (ones + np.exp(-values))


def _logit(score: float) -> float:
    """The other way round; clipped, so that a limit of 0 or 1 stays a number."""
    clipped = min(max(score, 1e-7), 1 - 1e-7)
    return float(np.log(clipped / (1 - clipped)))
