#!/usr/bin/env python3
"""Measure detectors on held-out frames: AP, precision and recall, latency.

    python evaluate.py --model person.onnx --truth PETS09-S2L1.txt --video vtest.avi

Prints a table and a line of JSON. Needs numpy, opencv-python-headless and onnxruntime.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from footage import Image
    from metric import Rows

COLUMNS = ("ap50", "ap75", "ap50_95", "precision", "recall", "best_f1", "best_score", "latency_ms")


class Detector(Protocol):
    """Whatever finds people: a bare session here, or a whole pipeline."""

    def detect(self, frame: Image, least: float, nms: float) -> Rows:
        """Rows of x1, y1, x2, y2, score in pixels of a BGR frame, best first."""


def main() -> None:
    """Evaluate each model that is named."""
    args = options()
    from detector import OnnxDetector  # below the options, so that --help needs none of this

    results = {}
    for path in args.model:
        detector = OnnxDetector(path, args.threads)
        results[path.name] = evaluate(detector, args) | {
            "latency_ms": detector.latency_ms(),
            "bytes": path.stat().st_size,
        }
    wide = max(len(name) for name in results)
    print(f"{'':{wide}}", *(f"{name:>10}" for name in COLUMNS))
    for name, row in results.items():
        print(f"{name:{wide}}", *(f"{row[column]:10.4f}" for column in COLUMNS))
    print(json.dumps(results))


def evaluate(detector: Detector, args: argparse.Namespace) -> dict[str, float]:
    """Compare what a detector finds in the chosen frames with the truth."""
    import footage
    import metric

    truth = footage.read_boxes(args.truth)
    frames = [
        (detector.detect(frame, args.least, args.nms), truth.get(number, footage.NOBODY))
        for number, frame in footage.read_frames(args.video, args.first, args.last)
    ]
    return metric.summary(frames, args.score)


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, nargs="+", required=True)
    add("--video", type=Path, required=True, help="vtest.avi")
    add("--truth", type=Path, required=True, help="boxes in MOT's text format")
    add("--first", type=int, default=601)
    add("--last", type=int, default=795)
    add("--least", type=float, default=0.001, help="lowest score that enters the AP")
    add("--nms", type=float, default=0.6, help="IoU above which the weaker box goes")
    add("--score", type=float, default=0.35, help="score of the precision and recall columns")
    add("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
