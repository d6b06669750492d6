"""A session whose detection head is filtered on the device answers with candidates in its place."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from edgetrt.app.networks import filter_head
from edgetrt.backends.device_session import DeviceSession, SessionOptions
from edgetrt.ports import Module
from edgetrt.types import TensorSpec
from tests.fakes import FakeDevice, FakeStream
from tests.gpu.conftest import load
from tests.gpu.host_compiler import available

SHAPE = (1, 6, 1000)


class Passing:
    """An engine whose output is its input."""

    no_graph = ""

    def __init__(self, shape: tuple[int, ...] = SHAPE) -> None:
        self.shape = shape
        self.inputs = (TensorSpec("x", shape, "float32"),)
        self.outputs = (TensorSpec("y", shape, "float32"), TensorSpec("z", (1, 2), "float32"))
        self.addresses: dict[str, int] = {}

    def bind(self, name: str, pointer: int) -> None:
        self.addresses[name] = pointer

    def enqueue(self, stream: int) -> None:
        found: FakeStream = ctypes.cast(stream, ctypes.py_object).value
        nbytes = 4 * int(np.prod(self.shape))
        found.add(lambda: ctypes.memmove(self.addresses["y"], self.addresses["x"], nbytes))

    def twin(self) -> Passing:
        return Passing(self.shape)

    def close(self) -> None: ...


@pytest.fixture
def gpu() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def detect(gpu: FakeDevice, tmp_path: Path) -> Module:
    if not available():
        pytest.skip("no host compiler")
    return load(gpu, "detect", tmp_path)


def head(seed: int, found: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    rng = np.random.default_rng(seed)
    values = (rng.random(SHAPE) * 0.2).astype(np.float32)
    values[0, 5, rng.choice(SHAPE[2], found, replace=False)] = 0.9
    return values


@pytest.mark.parametrize("memory", ["copied", "mapped"])
def test_candidates_come_in_place_of_the_head(gpu: FakeDevice, detect: Module, memory: str) -> None:
    session = DeviceSession(gpu, Passing(), SessionOptions(memory=memory))  # type: ignore[arg-type]
    filter_head(gpu, detect, session, "y", 0.5)
    for turn, count in enumerate((0, 7, 3, 0, 1000)):  # before, at and after the capture
        values = head(turn, count)
        session.buffers["x"][...] = values
        answers = session.infer()
        assert set(answers) == {"y", "z"}
        rows = answers["y"]
        np.testing.assert_array_equal(rows["index"], np.flatnonzero(values[0, 5] == 0.9))
        np.testing.assert_array_equal(rows["box"], values[0, :4, rows["index"]])
        assert (rows["label"] == 1).all()
    assert gpu.launches == 4
    session.close()
    gpu.push()
    detect.close()
    gpu.pop()
    assert (gpu.open, gpu.allocated) == (0, 0)


def test_heads_of_other_kinds_are_left_alone(gpu: FakeDevice, detect: Module) -> None:
    session = DeviceSession(gpu, Passing((1, 4, 10)))
    filter_head(gpu, detect, session, "y", 0.5)
    assert session.infer()["y"].shape == (1, 4, 10)
    session.close()
