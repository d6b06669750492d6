"""Our side of the comparison: a pipeline over frames in memory, stepped by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgetrt.backends.onnxruntime import OnnxRuntimeBackend
from edgetrt.clock import SystemClock
from edgetrt.config import PreprocessConfig, TaskConfig
from edgetrt.model.inspect import summarize
from edgetrt.ports import Session
from edgetrt.runtime.meter import Meter
from edgetrt.runtime.network import Lane, Network, assemble
from edgetrt.runtime.pipeline import Pipeline
from edgetrt.runtime.preprocess import Preprocessor
from edgetrt.runtime.tasks.detect import Detector
from edgetrt.types import Grant, Result
from scripts.benchmarks.footage import Last, Picture, Reel, shot


def network(
    model: Path, threads: int, depth: int, backend: OnnxRuntimeBackend | None = None
) -> Network:
    """The network as the composition root would assemble it."""
    backend = backend or OnnxRuntimeBackend()
    summary = summarize(model)
    return assemble(
        backend.load(model, threads),
        fingerprint="bench",
        backend=backend.name,
        labels=summary.labels,
        task=Detector(summary.outputs, summary.labels, TaskConfig()),
        preprocessor=lambda session: Preprocessor(
            session.inputs[0], session.buffers[session.inputs[0].name], PreprocessConfig()
        ),
        depth=depth,
    )


class Ours:
    """A pipeline that takes one frame at a time; a context manager that ends it."""

    def __init__(self, over: Network, shots: list[Picture]) -> None:
        clock = SystemClock()
        self._shots = shots
        self._sink = Last()
        self._pipeline = Pipeline(
            name="bench",
            source=Reel(shots, 0),
            network=over,
            sinks=[self._sink],
            meter=Meter("bench", clock),
            clock=clock,
            grant=Grant(),
        )
        self._seq = 0

    def step(self) -> Result | None:
        """Take the next frame; returns the newest result, which at depth 2 is of the frame before."""
        self._pipeline.step(shot(self._shots, self._seq))
        self._seq += 1
        result: Result | None = self._sink.result
        return result

    def seconds(self, count: int) -> float:
        """How long `count` steps take."""
        begin = time.perf_counter()
        for _ in range(count):
            self.step()
        return time.perf_counter() - begin

    def __enter__(self) -> Ours:
        return self

    def __exit__(self, *exc: object) -> None:
        over = threading.Event()
        over.set()
        self._pipeline.run(over)


class Recorded:
    """A session that answers with recorded outputs at once: what remains is everything but inference."""

    def __init__(self, session: Session, answers: list[Mapping[str, NDArray[Any]]]) -> None:
        self.inputs, self.outputs, self.buffers = session.inputs, session.outputs, session.buffers
        self._session = session
        self._answers = cycle(answers)

    def infer(self) -> Mapping[str, NDArray[Any]]:
        """The next recorded answer."""
        return next(self._answers)

    def twin(self) -> Session:
        """Itself: recordings need no buffers of their own."""
        return self

    def close(self) -> None:
        """Close the session that was recorded."""
        self._session.close()


def without_inference(over: Network, shots: list[Picture]) -> Network:
    """The same network with its answers to `shots` recorded."""
    lane = over.lanes[0]
    answers = []
    for seq in range(len(shots)):
        lane.preprocessor.write(shot(shots, seq))
        answers.append({name: array.copy() for name, array in lane.session.infer().items()})
    return replace(over, lanes=(Lane(Recorded(lane.session, answers), lane.preprocessor),))
