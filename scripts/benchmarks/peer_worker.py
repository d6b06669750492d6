"""Runs in the peer's environment: Ultralytics' predictor over frames from memory, block by block.

Reads one JSON object per line, `{"begin": n, "count": n}`, and answers with the milliseconds of each
frame: `{"total": [...], "inference": [...], "boxes": [...]}`. The predictor streams, as in its fastest
use; its own loader is replaced by one that hands over frames, so that no decoding is in its time.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from ultralytics import YOLO


class Frames:
    """What Ultralytics' loaders look like to its predictor."""

    mode = "image"
    bs = 1

    def __init__(self, shots: np.ndarray[Any, Any]) -> None:
        self._shots = shots

    def __iter__(self) -> Iterator[tuple[list[str], list[np.ndarray[Any, Any]], list[str]]]:
        for shot in self._shots:
            yield ["frame.jpg"], [shot], [""]

    def __len__(self) -> int:
        return len(self._shots)


def main() -> None:
    """Predict block by block until standard input ends."""
    model, pictures, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    # In our own channel order reversed, as OpenCV would have read them.
    shots = [np.ascontiguousarray(shot[:, :, ::-1]) for shot in np.load(pictures)]
    yolo = YOLO(model, task="detect")
    settings = {"conf": 0.25, "iou": 0.6, "verbose": False, "device": "cpu"}
    yolo.predict(shots[0], **settings)
    predictor = yolo.predictor

    def use(source: list[np.ndarray[Any, Any]], stride: int | None = None) -> None:
        predictor.dataset = Frames(source)

    predictor.setup_source = use
    answer(version=sys.modules["ultralytics"].__version__, size=list(predictor.imgsz))
    for line in sys.stdin:
        order = json.loads(line)
        chosen = [shots[(order["begin"] + i) % len(shots)] for i in range(order["count"])]
        totals, inference, boxes = [], [], []
        stream = predictor(source=chosen, stream=True)
        begin = time.perf_counter()
        for result in stream:
            end = time.perf_counter()
            totals.append((end - begin) * 1e3)
            inference.append(result.speed["inference"])
            boxes.append(len(result.boxes))
            begin = time.perf_counter()
        answer(total=totals, inference=inference, boxes=boxes)


def answer(**fields: Any) -> None:
    """Write one line."""
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main()
