"""Training pictures from a video: crops, pasted people, light and noise; needs numpy and OpenCV."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from footage import Image, Rows

SLACK_PX = 24
"""How far the frame's border may come into a crop."""


class Augmenter:
    """Draws pictures and their boxes from the frames of one fixed camera.

    Args:
        frames: RGB pictures of one size.
        labels: for each, rows of x1, y1, x2, y2, flag.
        seed: of every random choice.
    """

    def __init__(self, frames: list[Image], labels: list[Rows], seed: int) -> None:
        self.frames, self.labels = frames, labels
        self.background = np.median(np.stack(frames[::10]), 0).astype(np.uint8)
        self.rng = random.Random(seed)
        self.noise = np.random.default_rng(seed)

    def sample(self, height: int, width: int, base: float, strong: bool) -> tuple[Image, Rows]:
        """Draw one crop of height×width around scale `base`, and its rows."""
        image, rows = self._scene(strong)
        rows, scale, offset = self._place(image, rows, (width, height), base, strong)
        matrix = np.array([[scale[0], 0, offset[0]], [0, scale[1], offset[1]]], np.float64)
        image = cv2.warpAffine(
            image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=(114, 114, 114)
        )
        rows = _clip(rows, width, height)
        if self.rng.random() < 0.5:
            image = image[:, ::-1]
            rows[:, [0, 2]] = width - rows[:, [2, 0]]
        return self._light(np.ascontiguousarray(image)), rows.astype(np.float32)

    def _scene(self, strong: bool) -> tuple[Image, Rows]:
        """Take a frame, perhaps with people pasted into it."""
        index = self.rng.randrange(len(self.frames))
        image, rows = self.frames[index], self.labels[index]
        if strong and self.rng.random() < 0.15:  # the empty scene, mirrored or upturned
            return self._paste(cv2.flip(self.background, self.rng.choice((0, 1, -1))), rows[:0])
        if self.rng.random() < (0.5 if strong else 0.25):
            return self._paste(image, rows)
        return image, rows

    def _place(
        self, image: Image, rows: Rows, size: tuple[int, int], base: float, strong: bool
    ) -> tuple[Rows, list[float], list[float]]:
        """Choose scale and offset (x, y) of the crop, and move the rows there."""
        rng = self.rng
        spread, skew = (0.45, 0.12) if strong else (0.1, 0.04)
        across = base * math.exp(rng.uniform(-spread, spread))
        scale = [across, across * math.exp(rng.uniform(-skew, skew))]
        room = [size[i] - image.shape[1 - i] * scale[i] for i in (0, 1)]
        valid = rows[rows[:, 4] > 0]
        if len(valid) and rng.random() < 0.85:  # aim near somebody
            row = valid[rng.randrange(len(valid))]
            centre = ((row[0] + row[2]) / 2, (row[1] + row[3]) / 2)
            offset = [rng.uniform(0.1, 0.9) * size[i] - centre[i] * scale[i] for i in (0, 1)]
        else:
            offset = [rng.uniform(0, 1) * room[i] for i in (0, 1)]
        low = [min(0.0, r) - SLACK_PX for r in room]
        high = [max(0.0, r) + SLACK_PX for r in room]
        offset = [min(max(offset[i], low[i]), high[i]) for i in (0, 1)]
        moved = rows * np.array([*scale, *scale, 1], np.float32)
        return moved + np.array([*offset, *offset, 0], np.float32), scale, offset

    def _paste(self, image: Image, rows: Rows) -> tuple[Image, Rows]:
        """Paste a few people cut from other frames."""
        image, added = image.copy(), []
        for _ in range(self.rng.randint(1, 5)):
            person = self._cut()
            if person is None:
                continue
            cut, alpha = person
            h, w = cut.shape[:2]
            if w >= image.shape[1] or h >= image.shape[0]:
                continue
            x = self.rng.randrange(image.shape[1] - w)
            y = self.rng.randrange(image.shape[0] - h)
            area = image[y : y + h, x : x + w]
            area[:] = (alpha * cut + (1 - alpha) * area).astype(np.uint8)
            added.append([x, y, x + w, y + h, 1.0])
        if added:
            rows = np.concatenate((rows, np.array(added, np.float32)))
        return image, rows

    def _cut(self) -> tuple[Image, Image] | None:
        """Cut out somebody who overlaps nobody: pixels and soft mask; None when this draw has none."""
        index = self.rng.randrange(len(self.frames))
        people = self.labels[index][self.labels[index][:, 4] > 0]
        if len(people) == 0:
            return None
        chosen = self.rng.randrange(len(people))
        if _touched(people, chosen):
            return None
        x1, y1, x2, y2 = (max(round(float(v)), 0) for v in people[chosen, :4])
        cut, behind = self.frames[index][y1:y2, x1:x2], self.background[y1:y2, x1:x2]
        if min(cut.shape[:2]) < 8:
            return None
        differs = np.abs(cut.astype(np.int16) - behind).max(2) > 28
        mask = cv2.morphologyEx(
            differs.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)
        )
        return self._dress(cut, mask) if mask.mean() >= 0.25 else None

    def _dress(self, cut: Image, mask: Image) -> tuple[Image, Image]:
        """Rescale, mirror and recolour a person."""
        rng = self.rng
        scale = math.exp(rng.uniform(math.log(0.6), math.log(1.8)))
        size = max(6, int(cut.shape[1] * scale)), max(12, int(cut.shape[0] * scale))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        cut = cv2.resize(cut, size, interpolation=how)
        soft = cv2.GaussianBlur(cv2.resize(mask.astype(np.float32), size), (3, 3), 0)[..., None]
        if rng.random() < 0.5:
            cut, soft = cut[:, ::-1], soft[:, ::-1]
        if rng.random() < 0.4:
            cut = np.clip(cut * self.noise.uniform(0.5, 1.6, 3) + rng.uniform(0, 40), 0, 255)
        return cut, soft

    def _light(self, image: Image) -> Image:
        """Change brightness, contrast, gamma, colour, sharpness and noise."""
        rng = self.rng
        if rng.random() < 0.8:
            gain = rng.uniform(0.6, 1.4) * self.noise.uniform(0.85, 1.15, 3)
            curve = (np.arange(256) / 255.0)[:, None] ** rng.uniform(0.7, 1.45)
            table = 255 * np.clip(curve * gain + rng.uniform(-0.12, 0.12), 0, 1)
            image = cv2.LUT(image, table.astype(np.uint8).reshape(256, 1, 3))
        colour = rng.random()
        if colour < 0.1:
            image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
        elif colour < 0.4:
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int16)
            hsv[..., 0] = (hsv[..., 0] + rng.randint(-18, 18)) % 180
            hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.4, 1.5), 0, 255)
            image = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
        if rng.random() < 0.15:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.3))
        if rng.random() < 0.2:
            noise = self.noise.normal(0, rng.uniform(2, 12), image.shape)
            image = np.clip(image + noise, 0, 255).astype(np.uint8)
        return image


def _touched(people: Rows, chosen: int) -> bool:
    """Tell whether another box overlaps the chosen one."""
    others, (x1, y1, x2, y2) = np.delete(people, chosen, 0), people[chosen, :4]
    across = np.minimum(others[:, 2], x2) > np.maximum(others[:, 0], x1)
    down = np.minimum(others[:, 3], y2) > np.maximum(others[:, 1], y1)
    return bool((across & down).any())


def _clip(rows: Rows, width: int, height: int) -> Rows:
    """Clip rows to the crop; barely visible people are ignored, invisible ones go."""
    full = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
    rows[:, 0:4:2] = rows[:, 0:4:2].clip(0, width)
    rows[:, 1:4:2] = rows[:, 1:4:2].clip(0, height)
    seen = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1]) / np.maximum(full, 1e-3)
    rows[seen < 0.4, 4] = 0.0
    return rows[seen > 0.02]
