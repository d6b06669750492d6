"""Many synthetic frames through a whole pipeline: memory stays flat, and every frame is accounted for.

A network of a few operators stands in for a real one, so that frames are many and what is measured is
our own loop: source, newest-wins slot, preprocessing, ONNX Runtime, decoding, suppression, counters,
sinks. Every thousandth answer is made NaN, which must be refused and counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetrt.clock import SystemClock
from edgetrt.ports import Session, Source
from edgetrt.runtime.meter import Meter
from edgetrt.runtime.network import Lane, Network
from edgetrt.runtime.newest import Newest
from edgetrt.runtime.pipeline import Pipeline
from edgetrt.sources.synthetic import SyntheticSource
from edgetrt.types import Counters, Grant, Result
from scripts.benchmarks.agent_memory import resident_mb
from scripts.benchmarks.figures import Figure, report
from scripts.benchmarks.ours import network

SIZE = 64
SPOILED_EVERY = 1000


class Spoiled:
    """A session whose every thousandth answer is NaN; `turn` is shared by all lanes."""

    def __init__(self, session: Session, turn: count[int]) -> None:
        self.inputs, self.outputs, self.buffers = session.inputs, session.outputs, session.buffers
        self._session = session
        self._turn = turn

    def infer(self) -> Mapping[str, NDArray[Any]]:
        """Run, and spoil when it is time."""
        answer = self._session.infer()
        if next(self._turn) % SPOILED_EVERY == SPOILED_EVERY - 1:
            return {name: np.full_like(array, np.nan) for name, array in answer.items()}
        return answer

    def twin(self) -> Session:
        """One more context, spoiled in the same turn."""
        return Spoiled(self._session.twin(), self._turn)

    def close(self) -> None:
        """Close the session inside."""
        self._session.close()


class Scale:
    """A sink that notes the process's memory now and then."""

    def __init__(self, every: int) -> None:
        self._every = every
        self.resident_mb: list[float] = []
        self.results = 0

    def put(self, result: Result) -> bool:
        """Weigh at every `every`-th result."""
        self.results += 1
        if self.results % self._every == 0:
            self.resident_mb.append(resident_mb(os.getpid()))
        return True

    def close(self) -> None:
        """Nothing to finish."""

    def growth(self) -> float:
        """Last tenth over the second tenth, the first being warm-up; 0.01 = one percent more."""
        tenth = max(1, len(self.resident_mb) // 10)
        before = statistics.median(self.resident_mb[tenth : 2 * tenth])
        return statistics.median(self.resident_mb[-tenth:]) / before - 1


def main() -> int:
    """Measure and print; the exit code says whether every goal is met."""
    parser = argparse.ArgumentParser(prog="scripts/bench memory", description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    wishes = parser.parse_args()
    figures = []
    for name, live in (("file", False), ("camera", True)):
        scale = Scale(max(1, wishes.frames // 400))
        begin = time.monotonic()
        counters = run(wishes.frames, scale, live=live)
        elapsed_s = time.monotonic() - begin
        figures += accounts(name, counters, scale, wishes.frames)
        figures.append(Figure(f"{name}_fps", counters.done / elapsed_s, "Hz"))
    return report("memory", figures, {"frames": wishes.frames}, as_json=wishes.json)


def run(frames: int, scale: Scale, *, live: bool) -> Counters:
    """One pipeline over `frames` synthetic frames; `live` puts the newest-wins slot before it."""
    clock = SystemClock()
    meter = Meter("memory", clock)
    drawn = SyntheticSource((SIZE, SIZE), objects=2, frames=frames)
    source: Source = Newest(drawn) if live else drawn
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.onnx"
        path.write_bytes(tiny_detector())
        over = spoiled(network(path, 1, 2))
    pipeline = Pipeline(
        name="memory",
        source=source,
        network=over,
        sinks=[scale],
        meter=meter,
        clock=clock,
        grant=Grant(),
    )
    try:
        pipeline.run(threading.Event())
    finally:
        source.close()
    return meter.counters


def spoiled(over: Network) -> Network:
    """The network with NaN among its answers."""
    turn = count()
    lanes = (Lane(Spoiled(lane.session, turn), lane.preprocessor) for lane in over.lanes)
    return replace(over, lanes=tuple(lanes))


def accounts(name: str, counters: Counters, scale: Scale, frames: int) -> list[Figure]:
    """Growth, and what is missing in the books."""
    settled = counters.done + counters.dropped + counters.refused
    unread = abs(frames - counters.read)
    shares = f"{counters.done} done, {counters.dropped} dropped, {counters.refused} refused"
    return [
        Figure(f"{name}_growth", scale.growth() * 100, "%", 1, note="after warm-up"),
        Figure(f"{name}_rss_mb", scale.resident_mb[-1], "MB"),
        Figure(f"{name}_lost", abs(counters.read - settled) + unread, goal=0, note=shares),
        Figure(f"{name}_unseen", abs(counters.done - scale.results), goal=0, note="by the sink"),
    ]


def tiny_detector() -> bytes:
    """ONNX of `[1, 3, 64, 64]` to `[1, 5, 64]`: block colours become boxes and scores."""
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, values: Any) -> TensorProto:
        return numpy_helper.from_array(np.asarray(values), name)

    nodes = [
        helper.make_node("AveragePool", ["images"], ["p"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Reshape", ["p", "three"], ["q"]),
        helper.make_node("Gather", ["q", "order"], ["r"], axis=1),
        helper.make_node("Mul", ["r", "gain"], ["output0"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 5, 64])],
        [
            constant("three", np.array([1, 3, 64], np.int64)),
            constant("order", np.array([0, 1, 2, 0, 1], np.int64)),
            constant("gain", np.array([64, 64, 16, 16, 0.7], np.float32).reshape(1, 5, 1)),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    data: bytes = model.SerializeToString()
    return data


if __name__ == "__main__":
    sys.exit(main())
