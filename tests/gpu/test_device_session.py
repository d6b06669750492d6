"""A session on a GPU: order, graphs, twins, memory, and what happens when things go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetrt.app.networks import session_options
from edgetrt.backends.device_session import DeviceSession, SessionOptions
from edgetrt.backends.memory import choose_memory
from edgetrt.config import PreprocessConfig
from edgetrt.errors import CudaError, InferenceError
from edgetrt.gpu.layout import target
from edgetrt.gpu.preprocess import GpuPreprocessor
from edgetrt.types import TensorSpec
from tests.fakes import FakeDevice
from tests.gpu import reference
from tests.gpu.conftest import load
from tests.gpu.engines import Doubling
from tests.gpu.host_compiler import available


@pytest.fixture(params=["copied", "mapped"])
def options(request: pytest.FixtureRequest) -> SessionOptions:
    return SessionOptions(memory=request.param)


@pytest.fixture
def gpu() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def session(gpu: FakeDevice, options: SessionOptions) -> Iterator[DeviceSession]:
    opened = DeviceSession(gpu, Doubling(gpu), options)
    yield opened
    opened.close()


def test_every_frame_gets_its_own_answer(session: DeviceSession) -> None:
    for value in range(6):
        session.buffers["x"][...] = value
        np.testing.assert_array_equal(session.infer()["y"], np.full((1, 6), 2 * value))


def test_work_is_captured_after_a_warm_run(gpu: FakeDevice, session: DeviceSession) -> None:
    launched = []
    for _ in range(4):
        session.infer()
        launched.append(gpu.launches)
    assert launched == [0, 1, 2, 3]
    assert session.graph_status == ""


def test_nothing_is_allocated_after_warm_up(gpu: FakeDevice, session: DeviceSession) -> None:
    for _ in range(2):
        session.infer()
    before = gpu.allocations, gpu.open
    for _ in range(20):
        session.infer()
    assert (gpu.allocations, gpu.open) == before


@pytest.mark.parametrize(
    ("graphs", "spin", "events"),
    [(False, False, [2, 1, 2, 1]), (True, False, [2, 1, 1, 1]), (False, True, [1, 1, 1, 1])],
)
def test_only_who_sleeps_asks_to_be_woken(
    gpu: FakeDevice, graphs: bool, spin: bool, events: list[float]
) -> None:
    """Every second look finds a frame at its end; piece by piece there is one look, else two."""
    session = DeviceSession(gpu, Doubling(gpu), SessionOptions(graphs=graphs, spin=spin))
    happened = []
    for _ in events:
        before = gpu.now_ms
        session.infer()
        happened.append(gpu.now_ms - before)
    assert happened == events
    session.close()


def test_twins_overlap(session: DeviceSession) -> None:
    twin = session.twin()
    lanes = [session, twin]
    for lane, value in zip(lanes, (1, 2), strict=True):
        lane.buffers["x"][...] = value
        lane.start()
    for lane, value in zip(lanes, (1, 2), strict=True):
        assert (lane.wait()["y"] == 2 * value).all()
    twin.close()


@pytest.mark.parametrize(
    ("graphs", "no_graph", "wanted", "told"),
    [
        ("no cuda-python", "", True, "no cuda-python"),
        ("", "DLA parts", True, "DLA parts"),
        ("", "", False, "switched off"),
    ],
)
def test_graphs_are_left_out_for_a_stated_reason(
    graphs: str, no_graph: str, wanted: bool, told: str
) -> None:
    gpu = FakeDevice(graphs=graphs)
    session = DeviceSession(gpu, Doubling(gpu, no_graph), SessionOptions(graphs=wanted))
    for _ in range(3):
        session.infer()
    assert gpu.launches == 0
    assert session.graph_status == told
    session.close()


def test_a_capture_that_fails_leaves_the_session_running(
    gpu: FakeDevice, session: DeviceSession
) -> None:
    gpu.refuse_capture = True
    for value in range(4):
        session.buffers["x"][...] = value
        assert (session.infer()["y"] == 2 * value).all()
    assert "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" in session.graph_status
    assert gpu.launches == 0


def test_a_refused_frame_raises_and_the_next_one_runs(gpu: FakeDevice) -> None:
    engine = Doubling(gpu)
    session = DeviceSession(gpu, engine)
    engine.refuse = True
    with pytest.raises(InferenceError, match="refused"):
        session.infer()
    assert gpu.depth == 0
    engine.refuse = False
    session.buffers["x"][...] = 4
    assert (session.infer()["y"] == 8).all()
    session.close()


def test_closing_frees_everything_and_may_be_repeated(
    gpu: FakeDevice, options: SessionOptions
) -> None:
    engine = Doubling(gpu)
    session = DeviceSession(gpu, engine, options)
    for _ in range(3):
        session.infer()
    session.start()
    session.close()
    session.close()
    assert (gpu.open, gpu.allocated, engine.closed, gpu.depth) == (0, 0, 1, 0)


def test_too_little_memory_frees_what_was_taken() -> None:
    gpu = FakeDevice(capacity=30)
    engine = Doubling(gpu)
    with pytest.raises(CudaError, match="OUT_OF_MEMORY"):
        DeviceSession(gpu, engine)
    assert (gpu.open, gpu.allocated, engine.closed, gpu.depth) == (0, 0, 1, 0)


def test_a_lost_device_is_told_as_such_and_does_not_hide_in_close(session: DeviceSession) -> None:
    gpu: Any = session._device
    session.infer()
    gpu.lost = "CUDA_ERROR_ILLEGAL_ADDRESS"
    with pytest.raises(CudaError) as caught:
        session.infer()
    assert caught.value.fatal
    session.close()
    gpu.lost = ""


def test_a_leading_pass_takes_the_place_of_the_copy(gpu: FakeDevice, tmp_path: Path) -> None:
    if not available():
        pytest.skip("no host compiler")
    spec = TensorSpec("x", (1, 3, 1, 2), "float32")
    engine = Doubling(gpu)
    engine.inputs = (spec,)
    session = DeviceSession(gpu, engine)
    module = load(gpu, "preprocess", tmp_path)
    config = PreprocessConfig(resize="stretch")
    into = target(spec, session.pointer("x"), config)
    preprocessor = GpuPreprocessor(gpu, module, into, config)
    session.lead("x", preprocessor)
    for turn, size in enumerate([(8, 6)] * 4 + [(4, 4)] * 3):
        frame = reference.random_frame(size, "nv12", turn)
        preprocessor.write(frame)
        expected = reference.preprocess(frame, (2, 1), config).reshape(1, 6) * 2
        np.testing.assert_allclose(session.infer()["y"], expected, rtol=0, atol=2 / 255 + 1e-5)
    assert gpu.launches == 5, "one warm run for each size"
    preprocessor_closed = gpu.allocated
    session.close()
    gpu.push()
    preprocessor.close()
    module.close()
    gpu.pop()
    assert (gpu.allocated, gpu.open) == (0, 0)
    assert preprocessor_closed > 0


class Ticking:
    """A clock that the measured sessions drive."""

    def __init__(self) -> None:
        self.now = 0

    def monotonic_ns(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)


class Timed:
    """A session that takes a known time."""

    inputs = outputs = ()
    buffers: dict[str, Any] = {}  # noqa: RUF012 - it has none

    def __init__(self, clock: Ticking, cost_ns: int) -> None:
        self.clock, self.cost_ns, self.closed = clock, cost_ns, False

    def infer(self) -> dict[str, Any]:
        self.clock.now += self.cost_ns
        return {}

    def start(self) -> None: ...

    def wait(self) -> dict[str, Any]:
        return {}

    def twin(self) -> Timed:
        return self

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("mapped_ns", "copied_ns", "best"),
    [(1_000_000, 2_000_000, "mapped"), (2_000_000, 1_000_000, "copied"), (5, 5, "copied")],
)
def test_memory_is_chosen_by_time(mapped_ns: int, copied_ns: int, best: str) -> None:
    clock = Ticking()
    sessions = {"mapped": Timed(clock, mapped_ns), "copied": Timed(clock, copied_ns)}
    choice = choose_memory(sessions.__getitem__, clock)
    assert choice.memory == best
    assert (choice.mapped_ms, choice.copied_ms) == (mapped_ns / 1e6, copied_ns / 1e6)
    assert all(session.closed for session in sessions.values())


@pytest.mark.parametrize("integrated", [True, False])
def test_the_choice_is_made_once_where_memory_is_shared(tmp_path: Path, integrated: bool) -> None:
    gpu, asked = FakeDevice(integrated=integrated), []

    def load(options: SessionOptions) -> DeviceSession:
        asked.append(options.memory)
        return DeviceSession(gpu, Doubling(gpu), options)

    store = tmp_path / "memory.json"
    first, second = (session_options(gpu, load, "engine", store) for _ in range(2))
    assert first == second
    assert asked == (["copied", "mapped"] if integrated else [])
    assert store.exists() == integrated
    session_options(gpu, load, "another engine", store)
    assert len(asked) == (4 if integrated else 0)
    assert (gpu.open, gpu.allocated) == (0, 0)
    store.write_text("damaged")
    session_options(gpu, load, "engine", store)
    assert len(asked) == (6 if integrated else 0)
