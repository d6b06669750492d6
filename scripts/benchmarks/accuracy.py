"""How well a network finds people through edgetrt's own pipeline: source, preprocessing, engine, decode.

    scripts/bench accuracy --gt PETS09-S2L1.txt [--video vtest.avi] [--model person.onnx] [--json]

Every frame of the video goes through the pipeline; those from `--first` on are held against MOT15 labels
(https://motchallenge.net). The goal is the figure in `engines/person/README.md`.
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np

from edgetrt import app
from edgetrt.config import BackendName, TaskConfig
from edgetrt.engine import recipe
from edgetrt.engine.measures import average_precision
from edgetrt.engine.recipe import Recipe
from edgetrt.sources import uri
from edgetrt.types import Detections, Result
from scripts.benchmarks.figures import Figure, report
from scripts.benchmarks.footage import cache

MODEL = Path(__file__).parents[2] / "engines" / "person" / "person.onnx"
STATED, TOLERANCE = 0.9403, 0.002


class Collect:
    """A sink that keeps what was found."""

    def __init__(self) -> None:
        self.found: list[Detections] = []

    def put(self, result: Result) -> bool:
        """Keep it; False for a network that does not detect."""
        if not isinstance(result.output, Detections):
            return False
        self.found.append(result.output)
        return True

    def close(self) -> None:
        """Nothing to finish."""


def labels(path: Path, first: int, last: int) -> tuple[list[Detections], list[np.ndarray]]:
    """MOT15 rows to what counts and what is ignored (flag 0), per frame; frames count from 1."""
    rows = np.loadtxt(path, delimiter=",", ndmin=2)[:, :7]
    truth, ignored = [], []
    for number in range(first, last + 1):
        own = rows[rows[:, 0] == number]
        boxes = np.concatenate((own[:, 2:4], own[:, 2:4] + own[:, 4:6]), axis=1).astype(np.float32)
        real = boxes[own[:, 6] > 0]
        ones, zeros = np.ones(len(real), np.float32), np.zeros(len(real), np.int32)
        truth.append(Detections(real, ones, zeros))
        ignored.append(boxes[own[:, 6] == 0])
    return truth, ignored


def measure(model: Path, video: Path, gt: Path, first: int, backend: BackendName) -> float:
    """AP@0.5 of the frames from `first` (counted from 1) to the video's end."""
    plain = recipe.read(model)
    task = TaskConfig(score=0.001, iou=0.6, max_objects=1000)
    ranked = Recipe(plain.path, plain.model, msgspec.structs.replace(plain.config, task=task))
    sink, source = Collect(), uri.parse(str(video))
    supervisor = app.join(
        "accuracy",
        lambda: app.open_source(source),
        lambda: app.open_network(ranked, backend, threads=0, depth=2),
        [sink],
    )
    supervisor.run_once(threading.Event())
    truth, ignored = labels(gt, first, len(sink.found))
    return average_precision(sink.found[first - 1 :], truth, 0.5, ignored).ap


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gt", type=Path, required=True, help="MOT15 labels of the video")
    parser.add_argument("--video", type=Path, default=cache() / "vtest.avi")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--first", type=int, default=601, help="first frame that counts, from 1")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    ap = measure(args.model, args.video, args.gt, args.first, args.backend)
    figures = [
        Figure("ap50", round(ap, 4), note="through the pipeline"),
        Figure(
            "ap50_below_stated",
            round(STATED - ap, 4),
            goal=TOLERANCE,
            note=f"engines/person/README.md says {STATED}",
        ),
    ]
    return report("accuracy", figures, {"model": args.model.name}, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
