"""Our whole step beside a hand-written loop and beside Ultralytics' predictor, and depth-2 pipelining.

Same ONNX file, same frames in memory, same number of threads. Blocks of frames run in turn, in an order
that rotates, and only neighbours are compared: what else the machine does slows a pair alike. The first
frame of a block is not counted, because threads of the one before may still be spinning.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetrt.backends.onnxruntime import OnnxRuntimeBackend
from scripts.benchmarks.figures import Figure, paired_ratio, report
from scripts.benchmarks.footage import Picture, pictures
from scripts.benchmarks.hand import HandLoop
from scripts.benchmarks.ours import Ours, network, without_inference
from scripts.benchmarks.peer import Peer

ROOT = Path(__file__).parents[2]


@dataclass
class Runner:
    """One contender: `run(begin, count)` gives (total, inference) milliseconds of each frame."""

    name: str
    run: Callable[[int, int], list[tuple[float, float]]]
    total_ms: list[float] = field(default_factory=list)  # per block, median over its frames
    outside_ms: list[float] = field(default_factory=list)

    def block(self, begin: int, count: int) -> None:
        """Run one block and note its medians."""
        counted = self.run(begin, count + 1)[1:]
        self.total_ms.append(statistics.median(total for total, _ in counted))
        self.outside_ms.append(statistics.median(total - infer for total, infer in counted))


def main() -> int:
    """Measure and print; the exit code says whether every goal is met."""
    wishes = arguments()
    if wishes.pillow:
        sys.modules["cv2"] = None  # type: ignore[assignment] # as on a machine without OpenCV
    shots, footage = pictures(wishes.video, wishes.pictures)
    with ExitStack() as stack:
        runners = contenders(wishes, shots, stack)
        compare(runners, wishes.blocks, wishes.frames)
        figures = list(step_figures(runners))
    figures += overlap_figures(wishes, shots)
    if wishes.compare_spin:
        figures += spin_figures(wishes, shots)
    from edgetrt.runtime.imaging import resizer

    context = {
        "model": wishes.model.name,
        "frames": footage,
        "threads": wishes.threads,
        "blocks": f"{wishes.blocks} of {wishes.frames}",
        "resizer": resizer(),
    }
    return report("pipeline", figures, context, as_json=wishes.json)


def arguments() -> argparse.Namespace:
    """What the caller wishes."""
    parser = argparse.ArgumentParser(prog="scripts/bench pipeline", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, default=ROOT / "engines" / "person" / "person.onnx")
    add("--video", type=Path, help="default: the demo's when it is in the cache, else synthetic")
    add("--threads", type=int, default=2, help="of ONNX Runtime, in the comparison")
    add("--blocks", type=int, default=80)
    add("--frames", type=int, default=4, help="counted in each block")
    add("--pictures", type=int, default=64, help="taken from the video")
    add("--pillow", action="store_true", help="as on a machine without OpenCV")
    add("--compare-spin", action="store_true", help="also: worker threads that spin, or sleep")
    add("--no-peer", action="store_true", help="leave Ultralytics out: no environment for it")
    add("--json", action="store_true")
    return parser.parse_args()


def contenders(
    wishes: argparse.Namespace, shots: list[Picture], stack: ExitStack
) -> dict[str, Runner]:
    """Us, the hand-written loops and the peer, ready to run."""
    loops: dict[str, Callable[[int, int], list[tuple[float, float]]]] = {}
    ours = stack.enter_context(Ours(network(wishes.model, wishes.threads, 1), shots))
    loops["edgetrt"] = lambda begin, count: list(_ours(ours, count))
    resizers = ["pillow"] if wishes.pillow or not _has_opencv() else ["pillow", "opencv"]
    for resizer, tuned in [*((name, False) for name in resizers), (resizers[-1], True)]:
        hand = HandLoop(wishes.model, wishes.threads, resizer, tuned=tuned)
        loops[f"hand_{resizer}{'_tuned' if tuned else ''}"] = lambda begin, count, hand=hand: list(  # type: ignore[misc]
            _hand(hand, shots, begin, count)
        )
    if not wishes.no_peer:
        peer = stack.enter_context(Peer(wishes.model, shots, wishes.threads))
        loops["ultralytics"] = lambda begin, count: _peer(peer, begin, count)
    return {name: Runner(name, run) for name, run in loops.items()}


def _has_opencv() -> bool:
    try:
        import cv2  # noqa: F401
    except ImportError:
        return False
    return True


def _ours(ours: Ours, count: int) -> Iterator[tuple[float, float]]:
    for _ in range(count):
        begin = time.perf_counter_ns()
        result = ours.step()
        total = time.perf_counter_ns() - begin
        if result is None:
            raise RuntimeError("the pipeline gave no result")
        yield total / 1e6, result.stages_ns["infer"] / 1e6


def _hand(
    hand: HandLoop, shots: list[Picture], begin: int, count: int
) -> Iterator[tuple[float, float]]:
    for number in range(begin, begin + count):
        start = time.perf_counter_ns()
        hand.step(shots[number % len(shots)])
        yield (time.perf_counter_ns() - start) / 1e6, hand.infer_ns / 1e6


def _peer(peer: Peer, begin: int, count: int) -> list[tuple[float, float]]:
    block = peer.block(begin, count)
    return list(zip(block.total, block.inference, strict=True))


def compare(runners: dict[str, Runner], blocks: int, frames: int) -> None:
    """Run all blocks; the first round only warms up."""
    for number, names in enumerate(_rounds(list(runners), blocks + 1)):
        for name in names:
            runners[name].block(number * (frames + 1), frames)
        if number == 0:
            for runner in runners.values():
                runner.total_ms.clear()
                runner.outside_ms.clear()


def step_figures(runners: dict[str, Runner]) -> Iterator[Figure]:
    """Times of each, and ours over theirs."""
    ours = runners["edgetrt"]
    for name, runner in runners.items():
        yield Figure(f"{name}_ms", statistics.median(runner.total_ms), "ms", note="whole step")
        outside = statistics.median(runner.outside_ms)
        yield Figure(f"{name}_outside_ms", outside, "ms", note="of it outside inference")
    # Against the loop with the same resizer: the other one is for the reader.
    same = "hand_opencv" if "hand_opencv" in runners else "hand_pillow"
    for name in [name for name in runners if name.startswith("hand_")]:
        ratio = paired_ratio(ours.total_ms, runners[name].total_ms)
        goal = 1.05 if name == same else None
        yield Figure(f"step_over_{name}", ratio, goal=goal, note="whole step, ours / theirs")
    if "ultralytics" in runners:
        ratio = paired_ratio(ours.outside_ms, runners["ultralytics"].outside_ms)
        yield Figure("outside_over_ultralytics", ratio, goal=0.5, note="outside inference")
    else:
        yield Figure("outside_over_ultralytics", None, goal=0.5, note="left out: --no-peer")


def overlap_figures(wishes: argparse.Namespace, shots: list[Picture]) -> Iterator[Figure]:
    """Depth 2 with inference on one thread, against the slower of its two halves alone."""
    count = 30
    seconds: dict[str, list[float]] = {"infer": [], "rest": [], "both": []}
    alone = network(wishes.model, 1, 1)
    with (
        Ours(network(wishes.model, 1, 2), shots) as both,
        Ours(without_inference(network(wishes.model, 1, 1), shots), shots) as rest,
    ):
        runs: dict[str, Callable[[], float]] = {
            "infer": lambda: _seconds(alone.lanes[0].session.infer, count),
            "rest": lambda: rest.seconds(count),
            "both": lambda: both.seconds(count),
        }
        for names in _rounds(list(runs), max(5, wishes.blocks // 8)):
            for name in names:
                seconds[name].append(runs[name]())
    alone.close()
    slower = [max(pair) for pair in zip(seconds["infer"], seconds["rest"], strict=True)]
    for name, note in (
        ("infer", "inference alone, 1 thread"),
        ("rest", "all but inference, alone"),
        ("both", "the two overlapped, depth 2"),
    ):
        yield Figure(
            f"overlap_{name}_ms", statistics.median(seconds[name]) / count * 1e3, "ms", note=note
        )
    yield Figure(
        "overlap_reached",
        paired_ratio(slower, seconds["both"]),
        goal=0.95,
        better="higher",
        note="of the rate of the slower half",
    )


def spin_figures(wishes: argparse.Namespace, shots: list[Picture]) -> Iterator[Figure]:
    """What spinning worker threads cost and save: as the library does, as we do, and not at all."""
    kinds = {
        "library": OnnxRuntimeBackend(spin_us=None),
        "ours": OnnxRuntimeBackend(),
        "none": OnnxRuntimeBackend(spin_us=0),
    }
    for depth in (1, 2):
        times: dict[str, list[float]] = {name: [] for name in kinds}
        with ExitStack() as stack:
            runs = {
                name: stack.enter_context(
                    Ours(network(wishes.model, wishes.threads, depth, backend), shots)
                )
                for name, backend in kinds.items()
            }
            for names in _rounds(list(kinds), max(6, wishes.blocks // 2)):
                for name in names:
                    runs[name].seconds(1)
                    times[name].append(runs[name].seconds(8) / 8 * 1e3)
        for name, taken in times.items():
            quiet, typical = statistics.quantiles(taken, n=10)[0], statistics.median(taken)
            yield Figure(f"depth{depth}_spin_{name}_ms", typical, "ms", note=f"p10 {quiet:.2f}")


def _rounds(names: list[str], count: int) -> Iterator[list[str]]:
    """The names `count` times, each time another one first."""
    for number in range(count):
        turn = number % len(names)
        yield names[turn:] + names[:turn]


def _seconds(call: Callable[[], Any], count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
