"""Settings from afar: limits, rate and whether a pipeline runs, between two frames."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetrt.clock import SystemClock
from edgetrt.config import PipelineSettings, TaskConfig
from edgetrt.errors import ConfigError
from edgetrt.geometry import Fit, fit
from edgetrt.runtime.meter import Meter
from edgetrt.runtime.network import Network
from edgetrt.runtime.supervisor import Supervisor
from edgetrt.runtime.tap import ResultTap
from edgetrt.runtime.tasks.detect import Detector
from edgetrt.runtime.tasks.raw import Raw
from edgetrt.runtime.tuning import Tuning, tuned
from edgetrt.types import Detections, Frame, Grant, RawOutput, TensorSpec
from tests.fakes import FakeSink, FakeSource
from tests.runtime.scenes import Mean, backend, frames, network

LABELS = ("person", "dog")


def detector(candidates: int = 8) -> Detector:
    spec = TensorSpec("y", (1, 6, candidates), "float32")
    return Detector((spec,), LABELS, TaskConfig(score=0.25, iou=0.6))


def head() -> dict[str, NDArray[Any]]:
    """Eight boxes apart from each other: scores 0.1 … 0.8, the even ones are persons, the odd ones dogs."""
    out = np.zeros((1, 6, 8), np.float32)
    for i in range(8):
        out[0, :4, i] = (10 * i + 5, 50, 6, 6)
        out[0, 4 + i % 2, i] = (i + 1) / 10
    return {"y": out}


def decoded(task: Any) -> Detections:
    found = task.decode(head(), fit((100, 100), (100, 100), "stretch"), (100, 100))
    assert isinstance(found, Detections)
    return found


def test_limits_are_those_that_are_set_and_else_the_files() -> None:
    assert len(decoded(tuned(detector(), PipelineSettings()))) == 6
    assert len(decoded(tuned(detector(), PipelineSettings(score=0.55)))) == 3
    assert len(decoded(tuned(detector(), PipelineSettings(score=0.05)))) == 8
    assert len(decoded(tuned(detector(), PipelineSettings(max_objects=2)))) == 2
    dogs = decoded(tuned(detector(), PipelineSettings(only=("dog",))))
    assert set(dogs.classes.tolist()) == {1}


def test_limits_that_a_task_does_not_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="no class 'tiger'"):
        tuned(detector(), PipelineSettings(only=("tiger",)))
    with pytest.raises(ConfigError, match="at least 0"):  # a device has filtered such a head
        tuned(detector(candidates=30_000), PipelineSettings(score=0.04))
    with pytest.raises(ConfigError, match="raw"):
        tuned(Raw(), PipelineSettings(score=0.5))
    raw = Raw()
    assert tuned(raw, PipelineSettings(rate_hz=5.0)) is raw


def settled(meter: Meter) -> tuple[int, dict[str, Any], str]:
    health = meter.health()
    return health.generation, dict(health.settings), health.unsettled


def test_refused_settings_leave_in_force_what_was() -> None:
    meter = Meter("a", SystemClock())
    tuning = Tuning(meter)
    tuning.take(detector())
    assert tuning.settle(1, PipelineSettings(score=0.55))
    assert settled(meter) == (1, {"score": 0.55}, "")
    assert not tuning.settle(2, PipelineSettings(only=("tiger",), rate_hz=1.0))
    generation, settings, why = settled(meter)
    assert (generation, settings, "tiger" in why) == (2, {"score": 0.55}, True)
    assert len(decoded(tuning.task)) == 3
    assert tuning.settle(3, PipelineSettings())
    assert settled(meter) == (3, {}, "")
    assert len(decoded(tuning.task)) == 6


def test_settings_that_came_before_the_network_are_checked_when_it_comes() -> None:
    meter = Meter("a", SystemClock())
    tuning = Tuning(meter)
    assert tuning.settle(1, PipelineSettings(only=("tiger",), rate_hz=2.0))
    tuning.take(detector())
    generation, settings, why = settled(meter)
    assert (generation, settings, "tiger" in why) == (1, {"rate_hz": 2.0}, True)
    assert len(decoded(tuning.task)) == 6


def test_another_network_gets_the_same_limits() -> None:
    tuning = Tuning(Meter("a", SystemClock()))
    tuning.take(detector())
    tuning.settle(1, PipelineSettings(score=0.55))
    tuning.take(detector())
    assert len(decoded(tuning.task)) == 3


class Scaled(Mean):
    """A task whose limit shows in its answers."""

    score = 1.0

    def decode(
        self, tensors: Mapping[str, NDArray[Any]], placed: Fit, size: tuple[int, int]
    ) -> RawOutput:
        mean = super().decode(tensors, placed, size)
        return RawOutput({"mean": mean.tensors["mean"] * 0 + self.score})

    def tuned(self, **limits: Any) -> Scaled:
        other = copy.copy(self)
        other.score = limits["score"]
        return other


class Running:
    """A supervisor at work over an endless source."""

    def __init__(self) -> None:
        self.net, self.sink, self.stop = backend(), FakeSink(), threading.Event()
        self.sources: list[FakeSource] = []
        clock = SystemClock()
        self.supervisor = Supervisor(
            name="a",
            open_source=self._source,
            open_network=self._network,
            sinks=[self.sink],
            meter=Meter("a", clock),
            clock=clock,
            rate_hz=200.0,
        )
        self.thread = threading.Thread(target=self.supervisor.run, args=(self.stop,))

    def _source(self) -> FakeSource:
        endless = (frame for n in range(10**9) for frame in frames(n))
        self.sources.append(FakeSource(endless))
        return self.sources[-1]

    def _network(self) -> Network:
        made = network(self.net)
        return Network(made.fingerprint, made.backend, made.labels, made.lanes, Scaled())

    def __enter__(self) -> Running:
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()
        assert self.net.open == 0

    @property
    def state(self) -> str:
        return self.supervisor.meter.state

    def answers(self) -> float:
        output = self.sink.results[-1].output if self.sink.results else None
        return float(output.tensors["mean"]) if isinstance(output, RawOutput) else -1.0


def wait_for(met: Callable[[], bool]) -> None:
    for _ in range(4000):
        if met():
            return
        time.sleep(0.005)
    raise AssertionError("did not come about")


def test_limits_change_without_loading_anything() -> None:
    with Running() as rig:
        wait_for(lambda: rig.answers() == 1.0)
        rig.supervisor.settle(1, PipelineSettings(score=0.5))
        wait_for(lambda: rig.answers() == 0.5)
        rig.supervisor.settle(2, PipelineSettings())
        wait_for(lambda: rig.answers() == 1.0)
        assert (rig.net.loads, rig.supervisor.opened, len(rig.sources)) == (1, 1, 1)


def test_a_rate_from_afar_goes_before_the_files_and_goes_again() -> None:
    with Running() as rig:
        wait_for(lambda: bool(rig.sink.results))
        rig.supervisor.settle(1, PipelineSettings(rate_hz=3.0))
        assert rig.supervisor.granted == Grant(3.0)
        rig.supervisor.limit(Grant(50.0))
        pipeline = rig.supervisor.pipeline
        assert pipeline is not None
        assert pipeline.grant == Grant(3.0)
        rig.supervisor.settle(2, PipelineSettings())
        assert pipeline.grant == Grant(50.0)


def test_a_pipeline_that_is_not_to_run_sets_its_camera_and_its_memory_free() -> None:
    with Running() as rig:
        wait_for(lambda: bool(rig.sink.results))
        rig.supervisor.settle(1, PipelineSettings(enabled=False))
        wait_for(lambda: rig.state == "stopped")
        assert (rig.net.open, rig.sources[0].closed, rig.sink.closed) == (0, 1, 0)
        seen = len(rig.sink.results)
        rig.supervisor.settle(2, PipelineSettings(enabled=False, score=0.5))
        assert settled(rig.supervisor.meter) == (2, {"enabled": False, "score": 0.5}, "")
        rig.supervisor.settle(3, PipelineSettings(score=0.5))
        wait_for(lambda: len(rig.sink.results) > seen and rig.answers() == 0.5)
        assert rig.state == "running"
        assert rig.supervisor.meter.counters.restarts == 0


def test_one_that_was_told_so_before_it_began_never_begins() -> None:
    rig = Running()
    rig.supervisor.settle(1, PipelineSettings(enabled=False))
    with rig:
        wait_for(lambda: rig.state == "stopped")
        assert rig.net.loads == 0


def test_what_is_to_be_opened_again_is() -> None:
    with Running() as rig:
        wait_for(lambda: bool(rig.sink.results))
        assert rig.supervisor.reopen()
        wait_for(lambda: rig.supervisor.opened == 2)
        assert (rig.net.loads, len(rig.sources), rig.sources[0].closed) == (2, 2, 1)
        assert rig.supervisor.meter.counters.restarts == 0
    assert not rig.supervisor.reopen()


def test_a_tap_gives_the_next_result_and_nothing_is_kept() -> None:
    tap = ResultTap()
    assert tap.next(0.0) is None
    with Running() as rig:
        wait_for(lambda: bool(rig.sink.results))
        before = rig.sink.results[-1].frame.seq
        result = rig.supervisor.tap.next(10.0)
        assert result is not None
        assert isinstance(result.frame, Frame)
        assert result.frame.seq > before
        assert rig.supervisor.tap._result is None
