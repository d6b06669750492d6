"""The reference: a bare ONNX Runtime session with the plainest pre- and postprocessing.

Needs numpy, OpenCV and onnxruntime.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import cv2
import numpy as np
import onnxruntime as ort
from metric import iou_matrix

if TYPE_CHECKING:
    from pathlib import Path

    from footage import Image
    from metric import Rows
    from numpy.typing import NDArray

    Tensor = NDArray[np.float32]

PAD = 114
CANDIDATES = 1000


def letterbox(frame: Image, height: int, width: int) -> tuple[Tensor, float, float, float]:
    """BGR frame to RGB [1, 3, H, W] in 0..1; also the scale, and the padding left and on top."""
    h, w = frame.shape[:2]
    scale = min(height / h, width / w)
    inner_h, inner_w = round(h * scale), round(w * scale)
    left, top = (width - inner_w) // 2, (height - inner_h) // 2
    canvas = np.full((height, width, 3), PAD, np.uint8)
    small = cv2.resize(frame, (inner_w, inner_h), interpolation=cv2.INTER_LINEAR)
    canvas[top : top + inner_h, left : left + inner_w] = small
    planes = canvas[:, :, ::-1].transpose(2, 0, 1)[None]
    tensor = np.ascontiguousarray(planes, np.float32) / np.float32(255)
    return tensor, scale, float(left), float(top)


def decode(output: Tensor, least: float, nms: float) -> Rows:
    """YOLOv8's layout [1, 5, N] to rows of x1, y1, x2, y2, score in input pixels, best first."""
    rows = output[0].T.astype(np.float64)
    rows = rows[rows[:, 4] >= least]
    rows = rows[np.argsort(-rows[:, 4], kind="stable")][:CANDIDATES]
    half = rows[:, 2:4] / 2
    boxes = np.concatenate((rows[:, :2] - half, rows[:, :2] + half), 1)
    overlap = iou_matrix(boxes, boxes)
    alive, keep = np.ones(len(rows), bool), []
    for i in range(len(rows)):
        if alive[i]:
            keep.append(i)
            alive &= overlap[i] <= nms
    return np.concatenate((boxes[keep], rows[keep, 4:5]), 1)


class OnnxDetector:
    """Finds people with an ONNX file in YOLOv8's layout, FP32 or FP16."""

    def __init__(self, path: Path, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        providers = ["CPUExecutionProvider"]
        self.session = ort.InferenceSession(str(path), options, providers=providers)
        node = self.session.get_inputs()[0]
        self.name, self.half = node.name, "16" in node.type
        self.height, self.width = node.shape[2:]

    def detect(self, frame: Image, least: float, nms: float) -> Rows:
        """Rows of x1, y1, x2, y2, score in pixels of a BGR frame, best first."""
        tensor, scale, left, top = letterbox(frame, self.height, self.width)
        rows = decode(self._run(tensor).astype(np.float32), least, nms)
        rows[:, :4] = (rows[:, :4] - [left, top, left, top]) / scale
        rows[:, 0:4:2] = rows[:, 0:4:2].clip(0, frame.shape[1])
        rows[:, 1:4:2] = rows[:, 1:4:2].clip(0, frame.shape[0])
        return rows

    def latency_ms(self, runs: int = 100) -> float:
        """Median time of one inference, without what comes before and after."""
        shape, times = (1, 3, self.height, self.width), []
        tensor = np.random.default_rng(0).random(shape, np.float32)
        for _ in range(runs + 10):
            start = time.perf_counter()
            self._run(tensor)
            times.append(time.perf_counter() - start)
        return float(np.median(times[10:]) * 1e3)

    def _run(self, tensor: Tensor) -> NDArray[np.floating]:
        feed = {self.name: tensor.astype(np.float16) if self.half else tensor}
        return self.session.run(None, feed)[0]
