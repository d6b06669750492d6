"""A thousand swaps under load, between real sessions: no frame lost, each answered by the engine it names."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edgetrt.backends.onnxruntime import OnnxRuntimeBackend
from edgetrt.clock import SystemClock
from edgetrt.config import RecipeConfig, TaskConfig
from edgetrt.engine.accuracy import answer
from edgetrt.engine.recipe import Recipe
from edgetrt.runtime.meter import Meter
from edgetrt.runtime.network import Network
from edgetrt.runtime.pool import PipelinePool
from edgetrt.runtime.reading import Reading
from edgetrt.runtime.running import Job
from edgetrt.runtime.supervisor import Supervisor
from edgetrt.types import Frame, RawOutput, Result
from tests.deploying import SIZE, detector
from tests.fakes import FakeSource

SWAPS = 1000
SETTLED = 200
"""Swaps after which what the libraries keep for good has been allocated."""
LEAK_MB = 8.0

PICTURE = np.full((SIZE, SIZE, 3), 200, np.uint8)


class Judge:
    """A sink that keeps what matters of each result: its number, its engine, and whether that answered."""

    def __init__(self, answers: dict[str, float]) -> None:
        self.answers = answers
        self.numbers: list[int] = []
        self.engines: list[str] = []
        self.wrong: Counter[str] = Counter()
        self.closed = 0

    def put(self, result: Result) -> bool:
        assert isinstance(result.output, RawOutput)
        said = float(result.output.tensors["output0"].sum())
        if not np.isclose(said, self.answers[result.engine], rtol=1e-4):
            self.wrong[result.engine] += 1
        self.numbers.append(result.frame.seq)
        self.engines.append(result.engine)
        return True

    def close(self) -> None:
        self.closed += 1


def loader(path: Path, fingerprint: str) -> Callable[[], Network]:
    config = RecipeConfig(model=str(path), task=TaskConfig(kind="raw"))
    reading = Reading.of(Recipe(path, path, config))

    def load() -> Network:
        session = OnnxRuntimeBackend().load(path, 1, reading.shapes)
        return reading.network(session, fingerprint, "onnxruntime", depth=2)

    return load


def said_by(path: Path) -> float:
    session = OnnxRuntimeBackend().load(path, 1)
    feed = {"images": (PICTURE.transpose(2, 0, 1)[None] / 255).astype(np.float32)}
    total = float(answer(session, feed)["output0"].sum())
    session.close()
    return total


def resident_mb() -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1e3


def endless() -> FakeSource:
    """Every frame must come out: a source that does not overwrite, as fast as it is read."""
    return FakeSource(Frame(PICTURE, "rgb", n, 0) for n in range(10**9))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_thousand_swaps_lose_nothing_and_leave_nothing(tmp_path: Path) -> None:
    paths = [detector(tmp_path / f"{name}.onnx", seed) for seed, name in enumerate("ab")]
    judge = Judge({path.stem: said_by(path) for path in paths})
    assert len(set(judge.answers.values())) == 2

    def make_supervisor(opens: Callable[[], Network]) -> Supervisor:
        clock = SystemClock()
        return Supervisor(
            name="swap",
            open_source=endless,
            open_network=opens,
            sinks=[judge],
            meter=Meter("swap", clock),
            clock=clock,
        )

    jobs = [
        Job(
            name="swap",
            network=path.stem,
            parts="",
            load=loader(path, path.stem),
            make_supervisor=make_supervisor,
        )
        for path in paths
    ]
    pool, memory_mb = PipelinePool(), 0.0
    pool.begin({"swap": jobs[0]})
    try:
        taken = Counter[tuple[str, str]]()
        for number in range(1, SWAPS + 1):
            (one,) = pool.apply(lambda job=jobs[number % 2]: {"swap": job})  # type: ignore[misc]
            taken[one.did, one.error] += 1
            if number == SETTLED:
                memory_mb = resident_mb()
        served = len(judge.numbers)
        pause = threading.Event()
        while len(judge.numbers) < served + 100 and pool.working():
            pause.wait(0.001)
        grown_mb = resident_mb() - memory_mb
    finally:
        well = pool.close()

    assert well
    assert taken == {("swapped", ""): SWAPS}
    assert judge.numbers == list(range(len(judge.numbers)))
    assert judge.wrong == {}
    changes = sum(a != b for a, b in pairwise(judge.engines))
    assert SWAPS - 1 <= changes <= SWAPS
    assert pool.health()[0].counters.refused == 0
    assert grown_mb < LEAK_MB
