"""The yardstick: what a good engineer writes by hand for this one network, and nothing more.

No ports, no counters, no checks: ONNX Runtime's `run`, the cheapest correct preprocessing, and a
non-maximum suppression in numpy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCORE, IOU = 0.25, 0.6  # edgetrt's defaults
_SCALE = np.float32(1 / 255)

Boxes = tuple[NDArray[np.float32], NDArray[np.float32]]


class HandLoop:
    """One frame to boxes and scores in its pixels; for `[1, 5, N]` heads.

    Args:
        model: ONNX file with one static NCHW float32 input.
        threads: for ONNX Runtime.
        resizer: `opencv` or `pillow`.
        tuned: with the session settings of edgetrt's backend instead of ONNX Runtime's own.
    """

    def __init__(self, model: Path, threads: int, resizer: str, *, tuned: bool = False) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        if tuned:
            options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
        self._session = ort.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        (given,) = self._session.get_inputs()
        self._name = given.name
        _, _, self._height, self._width = given.shape
        self._input = np.full((1, 3, self._height, self._width), 114 * _SCALE, np.float32)
        self._write: Callable[..., None] = _opencv if resizer == "opencv" else _pillow
        self.infer_ns = 0

    def step(self, picture: NDArray[np.uint8]) -> Boxes:
        """Boxes and scores of an RGB picture."""
        height, width = picture.shape[:2]
        ratio = min(self._width / width, self._height / height)
        w, h = round(width * ratio), round(height * ratio)
        left, top = (self._width - w) // 2, (self._height - h) // 2
        self._write(picture, self._input[0, :, top : top + h, left : left + w])
        begin_ns = time.perf_counter_ns()
        (output,) = self._session.run(None, {self._name: self._input})
        self.infer_ns = time.perf_counter_ns() - begin_ns
        return _decode(output[0], (left, top), (w / width, h / height), (width, height))


def _opencv(picture: NDArray[np.uint8], target: NDArray[np.float32]) -> None:
    import cv2

    _, height, width = target.shape
    small = cv2.resize(picture, (width, height))
    for plane, channel in zip(target, cv2.split(small), strict=True):
        np.multiply(channel, _SCALE, out=plane)


def _pillow(picture: NDArray[np.uint8], target: NDArray[np.float32]) -> None:
    from PIL import Image

    _, height, width = target.shape
    bilinear: Any = 2
    small = Image.fromarray(picture).resize((width, height), bilinear)
    for plane, channel in zip(target, small.split(), strict=True):
        np.multiply(np.asarray(channel), _SCALE, out=plane)


def _decode(
    output: NDArray[np.float32],
    offset: tuple[int, int],
    ratio: tuple[float, float],
    size: tuple[int, int],
) -> Boxes:
    scores = output[4]
    picked = np.flatnonzero(scores >= SCORE)
    picked = picked[np.argsort(-scores[picked])]
    x, y, w, h = output[:4, picked]
    boxes = np.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), axis=1)
    kept = _suppress(boxes)
    boxes = boxes[kept]
    boxes[:, 0::2] = ((boxes[:, 0::2] - offset[0]) / ratio[0]).clip(0, size[0])
    boxes[:, 1::2] = ((boxes[:, 1::2] - offset[1]) / ratio[1]).clip(0, size[1])
    return boxes, scores[picked[kept]]


def _suppress(boxes: NDArray[np.float32]) -> list[int]:
    """All overlaps at once, then one pass: the cheapest way for a street's hundred candidates."""
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)
    shared = np.minimum(x2[:, None], x2)
    shared -= np.maximum(x1[:, None], x1)
    np.maximum(shared, 0, out=shared)
    height = np.minimum(y2[:, None], y2)
    height -= np.maximum(y1[:, None], y1)
    np.maximum(height, 0, out=height)
    shared *= height
    areas = (x2 - x1) * (y2 - y1)
    too_close = shared > IOU * (areas[:, None] + areas - shared)
    gone = np.zeros(len(boxes), bool)
    kept = []
    for i, row in enumerate(too_close):
        if not gone[i]:
            kept.append(i)
            gone |= row
    return kept
