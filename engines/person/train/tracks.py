"""Boxes of single frames to tracks of people; needs numpy."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Box = NDArray[np.float64]
"""Corners x1, y1, x2, y2."""


@dataclass
class Track:
    """Boxes of one person by frame number."""

    boxes: dict[int, Box] = field(default_factory=dict)

    def predict(self, frame: int) -> Box:
        """Box expected at a later frame: its centre moves on as over the last six frames."""
        last = max(self.boxes)
        past = [number for number in sorted(self.boxes) if number >= last - 6]
        if len(past) < 3:
            return self.boxes[last]
        first = self.boxes[past[0]]
        moved = (self.boxes[last][:2] + self.boxes[last][2:] - first[:2] - first[2:]) / 2
        return self.boxes[last] + np.tile(moved / (last - past[0]) * (frame - last), 2)


def iou(a: Box, b: Box) -> float:
    """IoU of two boxes."""
    size = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inter = float(size.clip(0).prod())
    return inter / (float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - inter + 1e-9)


def link(found: dict[int, list[Box]], gap: int) -> list[Track]:
    """Join boxes of successive frames, best overlap with the prediction first.

    A track ends when nobody was seen for more than `gap` frames; those of under four boxes go.
    """
    live: list[Track] = []
    done: list[Track] = []
    for frame in sorted(found):
        boxes = found[frame]
        taken = _pair(live, boxes, frame)
        live += [Track({frame: box}) for k, box in enumerate(boxes) if k not in taken]
        done += [track for track in live if frame - max(track.boxes) > gap]
        live = [track for track in live if frame - max(track.boxes) <= gap]
    return [track for track in done + live if len(track.boxes) >= 4]


def _pair(live: list[Track], boxes: list[Box], frame: int) -> set[int]:
    """Give boxes to tracks, each once; returns the boxes that found one."""
    pairs = []
    for t, track in enumerate(live):
        guess, age = track.predict(frame), frame - max(track.boxes)
        for k, box in enumerate(boxes):
            overlap = iou(guess, box)
            if overlap > (0.3 if age < 4 else 0.15):
                pairs.append((overlap - 0.01 * age, t, k))
    tracks: set[int] = set()
    taken: set[int] = set()
    for _, t, k in sorted(pairs, reverse=True):
        if t not in tracks and k not in taken:
            live[t].boxes[frame] = boxes[k]
            tracks.add(t)
            taken.add(k)
    return taken


def prune(track: Track, slope: float, offset: float) -> None:
    """Drop boxes unlike the person's usual size, given expected height = slope * foot + offset."""
    seen = sorted(track.boxes)
    table = np.array([track.boxes[frame] for frame in seen])
    expected = slope * table[:, 3] + offset
    wide = (table[:, 2] - table[:, 0]) / expected
    tall = (table[:, 3] - table[:, 1]) / expected
    usual_wide, usual_tall = np.percentile(wide, 35), np.median(tall)
    for frame, w, h in zip(seen, wide, tall, strict=True):
        if w > max(1.4 * usual_wide, usual_wide + 0.12) or abs(h / usual_tall - 1) > 0.1:
            del track.boxes[frame]


def fill(track: Track, gap: int) -> None:
    """Interpolate gaps of up to `gap` frames, then smooth the boxes over time."""
    for a, b in pairwise(sorted(track.boxes)):
        for frame in range(a + 1, b):
            if b - a <= gap:
                w = (frame - a) / (b - a)
                track.boxes[frame] = (1 - w) * track.boxes[a] + w * track.boxes[b]
    frames = sorted(track.boxes)
    table = np.array([track.boxes[frame] for frame in frames])
    for i, frame in enumerate(frames):
        near = table[max(0, i - 2) : i + 3].mean(0)
        track.boxes[frame] = 0.5 * near + 0.5 * table[i]
