"""How soon edgetrt is there, and how much memory its control process holds."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.benchmarks import agent_memory
from scripts.benchmarks.figures import Figure, report
from scripts.benchmarks.footage import cache

ROOT = Path(__file__).parents[2]
EDGETRT = [sys.executable, "-m", "edgetrt"]
MODEL = ROOT / "engines" / "person" / "person.onnx"


def main() -> int:
    """Measure and print; the exit code says whether every goal is met."""
    parser = argparse.ArgumentParser(prog="scripts/bench startup", description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--source", help="default: the demo's video when cached, else synthetic")
    parser.add_argument("--json", action="store_true")
    wishes = parser.parse_args()
    video = cache() / "vtest.avi"
    source = wishes.source or (str(video) if video.exists() else "synthetic:768x576")
    figures = [
        _timed("import_ms", import_ms, wishes.runs, 100, "ms", "import edgetrt, in a new process"),
        _timed("help_ms", help_ms, wishes.runs, 400, "ms", "edgetrt --help, start to end"),
        *first_results(source, wishes.runs),
        *agent_memory.figures(),
    ]
    return report("startup", figures, {"source": source, "runs": wishes.runs}, as_json=wishes.json)


def _timed(
    name: str, measure: Callable[[], float], runs: int, goal: float, unit: str, note: str
) -> Figure:
    """Median over new processes, after one that warms the file cache."""
    measure()
    return Figure(name, statistics.median(measure() for _ in range(runs)), unit, goal, note=note)


def import_ms() -> float:
    """Time of the import statement alone."""
    code = (
        "import time; begin = time.perf_counter_ns(); import edgetrt; "
        "print((time.perf_counter_ns() - begin) / 1e6)"
    )
    return float(subprocess.run([sys.executable, "-c", code], check=True, stdout=-1).stdout)


def help_ms() -> float:
    """The whole process, interpreter included."""
    begin = time.perf_counter()
    subprocess.run([*EDGETRT, "--help"], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begin) * 1e3


def first_results(source: str, runs: int) -> Iterator[Figure]:
    """Start of `edgetrt run` to its first line of results."""
    yield _timed(
        "first_result_s",
        lambda: first_result_s(source, "onnxruntime", cache()),
        runs,
        2,
        "s",
        "start to first result, ONNX Runtime",
    )
    if importlib.util.find_spec("openvino") is None:
        yield Figure("first_result_trial_s", None, "s", 2, note="only one backend: no trial")
        return

    def trial() -> float:
        with tempfile.TemporaryDirectory() as empty:
            return first_result_s(source, "auto", Path(empty))

    yield _timed("first_result_trial_s", trial, runs, 2, "s", "backend auto, measured anew")


def first_result_s(source: str, backend: str, memory: Path) -> float:
    """One run; `memory` is where the choice between backends is remembered."""
    command = [*EDGETRT, "run", str(MODEL), "--source", source, "--backend", backend]
    begin = time.perf_counter()
    with subprocess.Popen(
        [*command, "--frames", "1", "--sink", "jsonl:-", "--json"],
        stdout=subprocess.PIPE,
        env={**os.environ, "CACHE_DIRECTORY": str(memory)},
    ) as process:
        assert process.stdout is not None  # noqa: S101
        line = process.stdout.readline()
        elapsed_s = time.perf_counter() - begin
        process.stdout.read()
    if process.returncode != 0 or not isinstance(json.loads(line), dict):
        raise RuntimeError(f"`{' '.join(command)}` ended with code {process.returncode}")
    return elapsed_s


if __name__ == "__main__":
    sys.exit(main())
