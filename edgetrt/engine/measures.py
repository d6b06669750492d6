"""How alike two answers are, in the measure of the task. Every agreement is 1 for identical answers.

Average precision follows the COCO evaluation's convention: per class, best score first, each truth
taken once by the free box that overlaps it most, precision made monotone and read at 101 recalls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetrt.types import Detections

RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True, slots=True)
class Precision:
    """Average precision of one class or, as their mean, of all.

    Attributes:
        ap: 0..1; NaN when there is no truth at all.
        recall: share of the truth that was found at any score.
        truths: number of true objects.
        by_class: average precision of each class that has truth.
    """

    ap: float
    recall: float
    truths: int
    by_class: dict[int, float]


def iou_matrix(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of boxes m×4 with boxes n×4 (x1 y1 x2 y2): m×n."""
    ax1, ay1, ax2, ay2 = np.asarray(a, np.float64).reshape(-1, 4).T[:, :, None]
    bx1, by1, bx2, by2 = np.asarray(b, np.float64).reshape(-1, 4).T[:, None, :]
    width = np.minimum(ax2, bx2) - np.maximum(ax1, bx1)
    height = np.minimum(ay2, by2) - np.maximum(ay1, by1)
    both = np.maximum(width, 0) * np.maximum(height, 0)
    area_a = np.maximum(ax2 - ax1, 0) * np.maximum(ay2 - ay1, 0)
    area_b = np.maximum(bx2 - bx1, 0) * np.maximum(by2 - by1, 0)
    union = area_a + area_b - both
    out: NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return out


def average_precision(
    found: Sequence[Detections],
    truth: Sequence[Detections],
    iou: float = 0.5,
    ignored: Sequence[NDArray[Any]] | None = None,
) -> Precision:
    """Average precision over frames.

    Args:
        found: what the network says, one entry per frame.
        truth: what is there, one entry per frame; scores do not matter.
        iou: overlap from which a box counts as found.
        ignored: boxes n×4 per frame whose finding is neither right nor wrong.
    """
    skipped = ignored or [np.zeros((0, 4))] * len(truth)
    present = sorted({int(c) for frame in truth for c in frame.classes})
    aps, hits, truths = {}, 0, 0
    for kind in present:
        pairs = [
            _match(_only(f, kind), _only(t, kind).boxes, skip, iou)
            for f, t, skip in zip(found, truth, skipped)  # noqa: B905 - lengths are the caller's frames
        ]
        count = sum(int(np.sum(t.classes == kind)) for t in truth)
        scores = np.concatenate([s for s, _ in pairs])
        right = np.concatenate([r for _, r in pairs])
        aps[kind] = _area(scores, right, count)
        hits += int(right.sum())
        truths += count
    if not truths:
        return Precision(float("nan"), float("nan"), 0, {})
    return Precision(float(np.mean(list(aps.values()))), hits / truths, truths, aps)


def _only(frame: Detections, kind: int) -> Detections:
    """One class of a frame, best score first."""
    index = np.flatnonzero(frame.classes == kind)
    index = index[np.argsort(-frame.scores[index], kind="stable")]
    return Detections(frame.boxes[index], frame.scores[index], frame.classes[index])


def _match(
    found: Detections, truth: NDArray[Any], ignored: NDArray[Any], iou: float
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Scores of the boxes that count, and which of them are right."""
    overlap, beside = iou_matrix(found.boxes, truth), iou_matrix(found.boxes, ignored)
    free = np.ones(len(truth), bool)
    right, counts = np.zeros(len(found), bool), np.ones(len(found), bool)
    for i in range(len(found)):
        candidates = np.where(free, overlap[i], -1.0)
        best = int(candidates.argmax()) if len(truth) else -1
        if best >= 0 and candidates[best] >= iou:
            right[i], free[best] = True, False
        elif (beside[i] >= iou).any():
            counts[i] = False
    return found.scores[counts], right[counts]


def _area(scores: NDArray[Any], right: NDArray[np.bool_], truths: int) -> float:
    """Mean of the interpolated precision at 101 recalls."""
    if not len(scores):
        return 0.0
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / truths, RECALLS, side="left")
    return float(np.mean(np.append(envelope, 0.0)[np.minimum(at, len(envelope))]))


def top1_agreement(a: Sequence[NDArray[Any]], b: Sequence[NDArray[Any]]) -> float:
    """Share of frames on which two classifiers name the same class (axis 1, or the only one)."""
    same = [np.argmax(np.ravel(x)) == np.argmax(np.ravel(y)) for x, y in zip(a, b)]  # noqa: B905
    return float(np.mean(same))


def mean_iou(
    a: Sequence[NDArray[Any]], b: Sequence[NDArray[Any]]
) -> tuple[float, dict[int, float]]:
    """Mean intersection over union of two label maps per frame, over the classes of `a`."""
    both: dict[int, int] = {}
    either: dict[int, int] = {}
    for x, y in zip(a, b):  # noqa: B905 - one per frame
        for kind in np.union1d(x, y):
            in_x, in_y = x == kind, y == kind
            both[int(kind)] = both.get(int(kind), 0) + int(np.sum(in_x & in_y))
            either[int(kind)] = either.get(int(kind), 0) + int(np.sum(in_x | in_y))
    wanted = {int(kind) for x in a for kind in np.unique(x)}
    by_class = {kind: both[kind] / either[kind] for kind in sorted(wanted)}
    return float(np.mean(list(by_class.values()))), by_class


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Cosine of the angle between two tensors; 1 when both are zero, 0 when one is."""
    x, y = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    if size == 0:
        return float(not x.any() and not y.any())
    return float(np.dot(x, y) / size)


def max_error(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Largest difference between two tensors."""
    if np.size(a) == 0:
        return 0.0
    return float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))))
