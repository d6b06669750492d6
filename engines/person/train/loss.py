"""What PersonNet is trained to lower; needs torch.

Positives are chosen by how well the network already does there (task-aligned assignment, Feng et
al. 2021, arXiv:2108.07755); boxes are compared by complete IoU (Zheng et al. 2020, arXiv:1911.08287).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from personnet import Raw, decode
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from footage import Rows


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU [M, N] of corner boxes a [M, 4] and b [N, 4]."""
    left_top = torch.maximum(a[:, None, :2], b[None, :, :2])
    right_bottom = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = (right_bottom - left_top).clamp(min=0).prod(2)
    return inter / (_area(a)[:, None] + _area(b)[None] - inter + 1e-7)


def complete_iou(p: Tensor, t: Tensor) -> Tensor:
    """Complete IoU [K] of matched corner boxes [K, 4]."""
    size_p, size_t = p[:, 2:] - p[:, :2], t[:, 2:] - t[:, :2]
    common = torch.minimum(p[:, 2:], t[:, 2:]) - torch.maximum(p[:, :2], t[:, :2])
    inter = common.clamp(min=0).prod(1)
    iou = inter / (size_p.prod(1) + size_t.prod(1) - inter + 1e-7)
    hull = torch.maximum(p[:, 2:], t[:, 2:]) - torch.minimum(p[:, :2], t[:, :2])
    gap = ((p[:, :2] + p[:, 2:] - t[:, :2] - t[:, 2:]) ** 2).sum(1) / 4
    tilt = torch.atan(size_t[:, 0] / size_t[:, 1]) - torch.atan(size_p[:, 0] / size_p[:, 1])
    shape = (4 / math.pi**2) * tilt**2
    with torch.no_grad():
        weight = shape / (1 - iou + shape + 1e-7)
    return iou - gap / ((hull**2).sum(1) + 1e-7) - weight * shape


@torch.no_grad()
def assign(
    boxes: Tensor, score: Tensor, points: Tensor, truth: Tensor, topk: int = 10
) -> tuple[Tensor, Tensor]:
    """Pick the positives of one picture by score**0.5 * iou**4 among anchors inside each box.

    Returns:
        For each anchor, the matched person (-1: background) and a soft class target, scaled so that
        the best anchor of a person gets its own IoU.
    """
    count = points.shape[1]
    owner, target = torch.full((count,), -1, dtype=torch.long), torch.zeros(count)
    if len(truth) == 0:
        return owner, target
    inside = _inside(points, truth)
    iou = pairwise_iou(truth, boxes)
    metric = score.clamp(min=1e-6).sqrt() * iou**4 * inside
    kept = torch.zeros_like(metric)
    top = metric.topk(min(topk, count), 1)
    kept.scatter_(1, top.indices, top.values)
    best, index = kept.max(0)
    hit = best > 1e-12
    owner[hit] = index[hit]
    peak = kept.max(1).values.clamp(min=1e-12)
    peak_iou = (iou * (kept > 0)).max(1).values
    target[hit] = (best / peak[index] * peak_iou[index])[hit]
    return owner, target


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Which points [2, N] lie in which boxes [M, 4]: [M, N]."""
    x, y = points
    across = (x > boxes[:, :1]) & (x < boxes[:, 2:3])
    return across & (y > boxes[:, 1:2]) & (y < boxes[:, 3:4])


def _corners(boxes: Tensor) -> Tensor:
    """[B, 4, N] centre and size to [B, N, 4] corners."""
    centre, half = boxes[:, :2], boxes[:, 2:] * 0.5
    return torch.cat((centre - half, centre + half), 1).transpose(1, 2)


def detection_loss(
    raw: Raw, points: Tensor, strides: Tensor, targets: list[Rows]
) -> tuple[Tensor, float, float]:
    """Binary cross-entropy on soft labels plus complete IoU.

    Args:
        raw: what the network gave for the batch.
        points: anchor points [2, N].
        strides: of the anchors, [1, N].
        targets: for each picture, rows of x1, y1, x2, y2, flag; flag 0 regions count for nothing.

    Returns:
        The loss, and its class and box parts for the log.
    """
    boxes, logits = decode(raw, points, strides, len(targets))
    corners, logits = _corners(boxes), logits[:, 0]
    cls_loss, box_loss, total = logits.new_zeros(()), logits.new_zeros(()), 1.0
    for i, rows in enumerate(targets):
        table = torch.from_numpy(rows)
        truth, skip = table[table[:, 4] > 0, :4], table[table[:, 4] <= 0, :4]
        score = logits[i].detach().sigmoid()
        owner, soft = assign(corners[i].detach(), score, points, truth)
        hit = owner >= 0
        # As in the focal loss, easy background counts little.
        weight = torch.where(hit, torch.ones_like(score), 0.75 * score**1.5)
        weight[~hit & _inside(points, skip).any(0)] = 0.0
        entropy = functional.binary_cross_entropy_with_logits(logits[i], soft, reduction="none")
        cls_loss = cls_loss + (weight * entropy).sum()
        if hit.any():
            far = 1 - complete_iou(corners[i][hit], truth[owner[hit]])
            box_loss = box_loss + (soft[hit] * far).sum()
        total += float(soft.sum())
    cls_loss, box_loss = cls_loss / total, box_loss / total
    return cls_loss + 2.5 * box_loss, float(cls_loss.detach()), float(box_loss.detach())
