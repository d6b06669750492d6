"""Plans to sessions, against stand-ins for versions of TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetrt.backends.device_session import DeviceSession, SessionOptions
from edgetrt.backends.tensorrt import TensorRtBackend
from edgetrt.errors import (
    BackendError,
    CudaError,
    EdgetrtError,
    EngineMismatchError,
    InferenceError,
    ModelError,
)
from tests.fakes import FakeDevice
from tests.gpu.standin import DataType, StandIn, plan


@pytest.fixture
def gpu() -> FakeDevice:
    return FakeDevice()


def load(gpu: FakeDevice, trt: StandIn, shapes: Any = None, **more: Any) -> DeviceSession:
    backend = TensorRtBackend(gpu, library=trt.library(), **more)
    numbers = [int(part) for part in trt.__version__.split(".")]
    version: Any = (*numbers, 0, 0)[:4] if numbers[:2] >= [8, 6] else (0, 0, 0, 0)
    return backend.deserialize(plan(version), "person.plan", shapes)


@pytest.mark.parametrize("version", ["8.5.2", "8.6.1", "10.3.0", "10.16.2", "11.4.1"])
@pytest.mark.parametrize("memory", ["mapped", "copied"])
def test_every_version_runs(gpu: FakeDevice, version: str, memory: Any) -> None:
    session = load(gpu, StandIn(gpu, version), options=SessionOptions(memory=memory))
    assert [(s.name, s.shape, s.dtype) for s in session.inputs] == [("x", (1, 6), "float32")]
    for value in range(4):
        session.buffers["x"][...] = value
        assert (session.infer()["y"] == 2 * value).all()
    assert gpu.launches == 3
    session.close()
    assert (gpu.open, gpu.allocated) == (0, 0)


def test_host_code_in_plans_stays_forbidden(gpu: FakeDevice) -> None:
    trt = StandIn(gpu)
    load(gpu, trt).close()
    assert trt.runtimes[0].engine_host_code_allowed is False


def test_tensorrt_rtx_takes_its_own_plans(gpu: FakeDevice) -> None:
    backend = TensorRtBackend(gpu, library=StandIn(gpu, "1.7.1.116").library("tensorrt_rtx"))
    backend.deserialize(plan((1, 7, 1, 116), b"vtrt"), "a.plan").close()
    with pytest.raises(EngineMismatchError, match=r"TensorRT 10\.3\.0"):
        backend.deserialize(plan(), "a.plan")


def test_a_twin_has_its_own_context_and_buffers(gpu: FakeDevice) -> None:
    trt = StandIn(gpu)
    session = load(gpu, trt)
    twin = session.twin()
    session.buffers["x"][...], twin.buffers["x"][...] = 1, 2
    session.start()
    twin.start()
    assert (session.wait()["y"] == 2).all()
    assert (twin.wait()["y"] == 4).all()
    assert len(trt.contexts) == 2
    session.close()
    twin.close()


def test_a_file_is_read(gpu: FakeDevice, tmp_path: Path) -> None:
    backend = TensorRtBackend(gpu, library=StandIn(gpu).library())
    (tmp_path / "good.plan").write_bytes(plan())
    backend.load(tmp_path / "good.plan").close()
    with pytest.raises(ModelError, match="no such file"):
        backend.load(tmp_path / "nosuch.plan")
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08" + bytes(100))
    with pytest.raises(EngineMismatchError) as caught:
        backend.load(tmp_path / "model.onnx")
    assert "ONNX" in caught.value.hint


@pytest.mark.parametrize(
    ("shapes", "chosen"), [({"x": (8, 6)}, (8, 6)), ({"x": (2, 2)}, (2, 2)), (None, None)]
)
def test_dynamic_inputs_take_a_size_inside_the_profile(
    gpu: FakeDevice, shapes: Any, chosen: Any
) -> None:
    session = load(gpu, StandIn(gpu, shape=(-1, -1) if chosen else (-1, 6)), shapes)
    assert session.inputs[0].shape == (chosen or (1, 6))
    assert session.outputs[0].shape == (chosen or (1, 6))
    session.close()


@pytest.mark.parametrize(
    ("situation", "error", "words"),
    [
        ({"refuse": "deserialize"}, EngineMismatchError, "capability 8.7.*SM 90 does not match"),
        ({"refuse": "context"}, CudaError, r"needs 5\.0 MiB, 1024\.0 of 1024\.0 MiB.*out of mem"),
        ({"refuse": "bind"}, InferenceError, "'x' was not bound"),
        ({"dtype": DataType.FP8}, ModelError, "FP8"),
        ({"host": True}, ModelError, "shape tensor"),
        ({"ragged": True}, ModelError, "depends on the data"),
        ({"shape": (-1, -1)}, ModelError, "dynamic"),
    ],
)
@pytest.mark.parametrize("version", ["8.5.2", "11.4.1"])
def test_what_cannot_be_loaded_says_why(
    gpu: FakeDevice,
    situation: dict[str, Any],
    error: type[EdgetrtError],
    words: str,
    version: str,
) -> None:
    with pytest.raises(error, match=words) as caught:
        load(gpu, StandIn(gpu, version, **situation))
    assert "person.plan" in caught.value.message
    assert (gpu.depth, gpu.open, gpu.allocated) == (0, 0, 0)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [({"x": (9, 4)}, r"profile goes from \[1, 2\] to \[8, 6\]"), ({"x": (4,)}, r"got \[4\]")],
)
def test_sizes_outside_the_profile_are_refused(gpu: FakeDevice, shapes: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        load(gpu, StandIn(gpu, shape=(-1, -1)), shapes)


def test_a_size_that_tensorrt_refuses_is_refused(gpu: FakeDevice) -> None:
    with pytest.raises(ModelError, match="cannot be"):
        load(gpu, StandIn(gpu, shape=(-1, 6), refuse="shape"))


def test_a_refused_enqueue_raises_with_the_recorded_reason(gpu: FakeDevice) -> None:
    trt = StandIn(gpu)
    session = load(gpu, trt)
    trt.refuse = "enqueue"
    with pytest.raises(InferenceError, match="refused to enqueue: shape was not set"):
        session.infer()
    trt.refuse = ""
    session.buffers["x"][...] = np.arange(6)
    assert list(session.infer()["y"][0]) == [0, 2, 4, 6, 8, 10]
    session.close()


def test_a_plan_of_another_version_is_refused_before_it_is_deserialized(gpu: FakeDevice) -> None:
    trt = StandIn(gpu, "10.7.0")
    backend = TensorRtBackend(gpu, library=trt.library())
    with pytest.raises(EngineMismatchError, match=r"10\.3\.0.*10\.7\.0"):
        backend.deserialize(plan(), "old.plan")
    assert not trt.runtimes


def test_dla_cores_are_chosen_at_load_and_exclude_graphs(gpu: FakeDevice) -> None:
    trt = StandIn(gpu, dla_cores=2)
    session = load(gpu, trt, dla_core=1)
    assert trt.runtimes[0].DLA_core == 1
    for _ in range(3):
        session.infer()
    assert gpu.launches == 0
    assert "DLA" in session.graph_status
    session.close()
    with pytest.raises(BackendError, match="DLA core 2: this device has 2"):
        load(gpu, trt, dla_core=2)
    with pytest.raises(BackendError, match="DLA core 0: this device has none"):
        load(gpu, StandIn(gpu), dla_core=0)
