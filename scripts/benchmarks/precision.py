#!/usr/bin/env python3
"""Accuracy of the person model in FP32, FP16 and INT8 on a real video.

Calibrates on the frames before `--first`, evaluates on the frames from there on. With `--gt` (MOT15
text) average precision is against the labels, without against the FP32 network's own boxes.

    scripts/benchmarks/precision.py --video vtest.avi --gt PETS09-S2L1.txt
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from edgetrt.engine.accuracy import Gate, Scorer
from edgetrt.engine.measures import average_precision, iou_matrix
from edgetrt.model.activations import measure
from edgetrt.model.frames import spool
from edgetrt.model.half import HalfOptions
from edgetrt.model.precision import cast_half
from edgetrt.model.quantize import TENSORRT, Quantizer
from edgetrt.model.reference import Feed, Reference
from edgetrt.model.sensitivity import search
from edgetrt.model.storage import input_specs, read_skeleton
from edgetrt.types import Detections

HEIGHT, WIDTH = 384, 512
LOWEST_SCORE, NMS_IOU, MOST = 0.001, 0.6, 1000
SEARCH_SCORE, SEARCH_MOST = 0.02, 300  # a trial of the search need not rank the hopeless boxes


def feeds(video: Path, first: int, last: int, step: int = 1) -> Iterator[Feed]:
    """Frames first..last (1-based) of a 4:3 video as the network's input."""
    capture, number = cv2.VideoCapture(str(video)), 0
    while number < last:
        there, frame = capture.read()
        if not there:
            break
        number += 1
        if number >= first and (number - first) % step == 0:
            small = cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
            tensor = small[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32)
            yield {"images": np.ascontiguousarray(tensor / np.float32(255))}


def decode_fast(outputs: Feed) -> Detections:
    """As `decode`, for the search."""
    return decode(outputs, SEARCH_SCORE, SEARCH_MOST)


def decode(outputs: Feed, lowest: float = LOWEST_SCORE, most: int = MOST) -> Detections:
    """[1, 5, n] of cx cy w h score to boxes in input pixels, after non-maximum suppression."""
    rows = np.asarray(outputs["output0"][0].T, np.float64)
    rows = rows[rows[:, 4] >= lowest]
    rows = rows[np.argsort(-rows[:, 4], kind="stable")][:most]
    boxes = np.concatenate((rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2), 1)
    overlap, alive, keep = iou_matrix(boxes, boxes), np.ones(len(rows), bool), []
    for i in range(len(rows)):
        if alive[i]:
            keep.append(i)
            alive &= overlap[i] <= NMS_IOU
    classes = np.zeros(len(keep), np.int32)
    limit = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
    return Detections(
        np.clip(boxes[keep], 0, limit).astype(np.float32), rows[keep, 4].astype(np.float32), classes
    )


def read_truth(path: Path, first: int, last: int, size: tuple[int, int]) -> tuple[list, list]:
    """MOT15 text to boxes per frame in input pixels, and the boxes that shall be ignored."""
    rows = np.loadtxt(path, delimiter=",", ndmin=2)[:, :7]
    scale = np.array([WIDTH / size[0], HEIGHT / size[1]] * 2)
    truth, ignored = [], []
    for number in range(first, last + 1):
        mine = rows[rows[:, 0] == number]
        boxes = np.concatenate((mine[:, 2:4], mine[:, 2:4] + mine[:, 4:6]), 1) * scale
        real = boxes[mine[:, 6] > 0]
        ones = np.ones(len(real), np.float32)
        truth.append(Detections(real.astype(np.float32), ones, np.zeros(len(real), np.int32)))
        ignored.append(boxes[mine[:, 6] <= 0])
    return truth, ignored


class Evaluation:
    """Average precision on the held-out frames."""

    def __init__(self, args: argparse.Namespace, model: Path) -> None:
        self._frames = list(feeds(args.video, args.first, args.last))
        last = args.first + len(self._frames) - 1
        if args.gt:
            self._truth, self._ignored = read_truth(args.gt, args.first, last, (768, 576))
        else:
            found = [decode(Reference(model)(f)) for f in self._frames]
            self._truth = [
                Detections(
                    f.boxes[f.scores >= 0.25],
                    f.scores[f.scores >= 0.25],
                    f.classes[f.scores >= 0.25],
                )
                for f in found
            ]
            self._ignored = None

    def __call__(self, model: Path) -> dict[str, float]:
        """Precision, recall, size, and time on this CPU (Q/DQ simulated: no measure of INT8's speed)."""
        session, times, found = Reference(model, threads=2, simulate=True), [], []
        for feed in self._frames:
            start = time.perf_counter()
            outputs = session(feed)
            times.append(time.perf_counter() - start)
            found.append(decode(outputs))
        result = average_precision(found, self._truth, ignored=self._ignored)
        return {
            "ap50": result.ap,
            "recall": result.recall,
            "bytes": model.stat().st_size,
            "ms": 1000 * float(np.median(times)),
        }


def run(args: argparse.Namespace, work: Path) -> dict[str, object]:
    """Make the variants and evaluate each."""
    skeleton = read_skeleton(args.model)
    (work / "frames").mkdir()
    step = max(1, (args.first - 1) // args.frames)
    calibration = spool(
        feeds(args.video, 1, args.first - 1, step),
        input_specs(skeleton),
        work / "frames",
        args.frames,
    )
    evaluate, table = Evaluation(args, args.model), {}
    table["fp32"] = evaluate(args.model)
    start = time.perf_counter()
    activations = measure(skeleton, calibration, histogram=True)
    seconds = {"measure": time.perf_counter() - start}
    half = cast_half(args.model, work / "fp16.onnx", activations, HalfOptions())
    table["fp16"] = evaluate(work / "fp16.onnx")
    quantizer = Quantizer(args.model, activations, TENSORRT, args.method)
    quantizer.write(work / "all.onnx")
    table["int8 of everything"] = evaluate(work / "all.onnx")
    start = time.perf_counter()
    scorer = Scorer(
        Gate("detect", args.limit, decode_fast, iou=args.iou),
        args.model,
        calibration.spread(args.judged),
        2,
    )
    mixture = search(quantizer, scorer, work / "mixed.onnx", args.limit)
    seconds["search"] = time.perf_counter() - start
    table["int8 after the search"] = evaluate(work / "mixed.onnx")
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
        for file in work.glob("*.onnx"):
            (args.keep / file.name).write_bytes(file.read_bytes())
    return {
        "variants": table,
        "seconds": seconds,
        "fp16_kept": [[k.node, k.op, k.reason] for k in half.kept],
        "int8_kept": [[k.node, k.op, k.reason] for k in mixture.kept],
        "search": {
            "score_all": mixture.score_all,
            "score": mixture.score,
            "holds": mixture.holds,
            "trials": mixture.trials,
            "quantized": mixture.quantized,
        },
    }


def show(report: dict[str, object]) -> None:
    """Print the tables."""
    print(f"{'variant':24}{'AP50':>8}{'recall':>8}{'ms':>8}{'bytes':>10}")
    for name, row in report["variants"].items():
        print(f"{name:24}{row['ap50']:8.4f}{row['recall']:8.4f}{row['ms']:8.1f}{row['bytes']:10}")
    for title in ("fp16_kept", "int8_kept"):
        print(f"\n{title.replace('_', ', ')} in FP32:")
        for node, op, reason in report[title]:
            print(f"  {op:10}{node:32}{reason}")
    print(f"\nsearch: {report['search']}\nseconds: {report['seconds']}")


def main() -> None:
    """Parse arguments and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--gt", type=Path, help="MOT15 labels")
    parser.add_argument("--model", type=Path, default=root / "engines/person/person.onnx")
    parser.add_argument("--first", type=int, default=601)
    parser.add_argument("--last", type=int, default=795)
    parser.add_argument("--frames", type=int, default=60, help="calibration frames")
    parser.add_argument("--judged", type=int, default=20, help="frames per trial of the search")
    parser.add_argument("--limit", type=float, default=0.01)
    parser.add_argument("--iou", type=float, default=0.5, help="overlap that the search asks for")
    parser.add_argument("--method", choices=("minmax", "entropy", "percentile"), default="minmax")
    parser.add_argument("--keep", type=Path, help="folder for the networks made")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        report = run(args, Path(work))
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


if __name__ == "__main__":
    main()
