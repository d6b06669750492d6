"""How good detections are: precision, recall and average precision; needs numpy alone.

The interpolation over 101 recalls is COCO's (Lin et al. 2014, arXiv:1405.0312).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.float64]

IOU_STEPS = np.linspace(0.5, 0.95, 10)


def iou_matrix(a: Rows, b: Rows) -> Rows:
    """IoU [M, N] of corner boxes a [M, 4] and b [N, 4]."""
    size = np.minimum(a[:, None, 2:4], b[None, :, 2:4]) - np.maximum(a[:, None, :2], b[None, :, :2])
    inter = size.clip(0).prod(2)
    area_a, area_b = (a[:, 2:4] - a[:, :2]).prod(1), (b[:, 2:4] - b[:, :2]).prod(1)
    return inter / (area_a[:, None] + area_b[None] - inter + 1e-9)


def match(found: Rows, truth: Rows, threshold: float) -> NDArray[np.int64]:
    """Match score-sorted rows to rows of truth: 1 hit, 0 false alarm, -1 in an ignored region.

    Args:
        found: x1, y1, x2, y2, score, best first.
        truth: x1, y1, x2, y2, flag; flag 0 is a region to ignore.
        threshold: least IoU of a hit.
    """
    result = np.zeros(len(found), np.int64)
    if len(truth) == 0 or len(found) == 0:
        return result
    overlap = iou_matrix(found[:, :4], truth[:, :4])
    free, valid = np.ones(len(truth), bool), truth[:, 4] > 0
    for i in range(len(found)):
        candidates = np.where(free & valid, overlap[i], -1.0)
        best = int(candidates.argmax())
        if candidates[best] >= threshold:
            result[i], free[best] = 1, False
        elif (overlap[i][~valid] >= threshold).any():
            result[i] = -1
    return result


def average_precision(frames: list[tuple[Rows, Rows]], threshold: float) -> tuple[float, Rows]:
    """Average precision at one IoU, and the curve as rows of score, precision, recall."""
    scores = np.concatenate([found[:, 4] for found, _ in frames])
    hits = np.concatenate([match(found, truth, threshold) for found, truth in frames])
    people = sum(int((truth[:, 4] > 0).sum()) for _, truth in frames)
    scores, hits = scores[hits >= 0], hits[hits >= 0]
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(hits[order])
    precision, recall = right / np.arange(1, len(hits) + 1), right / max(people, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    average = np.mean([envelope[i] if i < len(envelope) else 0.0 for i in at])
    return float(average), np.stack((scores[order], precision, recall), 1)


def summary(frames: list[tuple[Rows, Rows]], score: float) -> dict[str, float]:
    """AP over the usual IoUs; precision and recall at `score`; the score of the best F1."""
    results = [average_precision(frames, threshold) for threshold in IOU_STEPS]
    averages, curve = [average for average, _ in results], results[0][1]
    chosen = curve[curve[:, 0] >= score]
    precision, recall = chosen[-1, 1:] if len(chosen) else (0.0, 0.0)
    f1 = 2 * curve[:, 1] * curve[:, 2] / np.maximum(curve[:, 1] + curve[:, 2], 1e-9)
    best = int(f1.argmax()) if len(f1) else -1
    return {
        "frames": len(frames),
        "ap50": averages[0],
        "ap75": averages[5],
        "ap50_95": float(np.mean(averages)),
        "precision": float(precision),
        "recall": float(recall),
        "best_f1": float(f1[best]) if len(f1) else 0.0,
        "best_score": float(curve[best, 0]) if len(f1) else 0.0,
    }
