"""What every backend and its sessions promise: the fake and each one this machine has."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgetrt.backends.onnxruntime import OnnxRuntimeBackend
from edgetrt.backends.openvino import OpenVinoBackend
from edgetrt.errors import BackendError, InferenceError, ModelError
from edgetrt.ports import Backend, Session
from tests.contracts import networks
from tests.fakes import FakeBackend

Load = Callable[..., Session]


def _real(name: str) -> Backend:
    makers: dict[str, Callable[[], Backend]] = {
        "onnxruntime": OnnxRuntimeBackend,
        "openvino": OpenVinoBackend,
    }
    try:
        return makers[name]()
    except BackendError as error:
        pytest.skip(error.message)


@pytest.fixture(params=["onnxruntime", "openvino"])
def real(request: pytest.FixtureRequest) -> Backend:
    return _real(request.param)


@pytest.fixture(params=["fake", "onnxruntime", "openvino"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return FakeBackend() if request.param == "fake" else _real(request.param)


@pytest.fixture
def session(backend: Backend, tmp_path: Path) -> Session:
    """x to y = 2 x, float32 [batch, 4]."""
    return backend.load(networks.save(networks.double(["batch", 4]), tmp_path), threads=1)


def test_it_says_who_it_is(backend: Backend) -> None:
    assert backend.name.isidentifier()
    assert backend.version[0].isdigit()


def test_the_batch_is_one_unless_asked(session: Session) -> None:
    assert [(spec.name, spec.shape, spec.dtype) for spec in session.inputs] == [
        ("x", (1, 4), "float32")
    ]
    assert [(spec.name, spec.shape, spec.dtype) for spec in session.outputs] == [
        ("y", (1, 4), "float32")
    ]


def test_buffers_are_the_input_tensors(session: Session) -> None:
    buffer = session.buffers["x"]
    assert buffer.shape == (1, 4)
    assert buffer.flags.c_contiguous
    assert buffer.flags.writeable
    for value in (1.0, -3.0):
        buffer[...] = value
        assert session.buffers["x"] is buffer
        np.testing.assert_array_equal(session.infer()["y"], np.full((1, 4), 2 * value))


def test_outputs_are_valid_until_the_next_run(session: Session) -> None:
    session.buffers["x"][...] = 1
    first = session.infer()["y"]
    kept = first.copy()
    session.buffers["x"][...] = 5
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(session.infer()["y"], np.full((1, 4), 10))


def test_a_twin_has_buffers_of_its_own(session: Session) -> None:
    twin = session.twin()
    session.buffers["x"][...] = 1
    twin.buffers["x"][...] = 7
    mine, its = session.infer()["y"], twin.infer()["y"]
    np.testing.assert_array_equal(mine, np.full((1, 4), 2))
    np.testing.assert_array_equal(its, np.full((1, 4), 14))


def test_a_twin_outlives_its_sibling(session: Session) -> None:
    twin = session.twin()
    session.close()
    twin.buffers["x"][...] = 2
    np.testing.assert_array_equal(twin.infer()["y"], np.full((1, 4), 4))


def test_two_threads_run_twins_at_once(session: Session) -> None:
    wrong: list[float] = []

    def run(own: Session, first: int) -> None:
        for value in range(first, first + 200):
            own.buffers["x"][...] = value
            got = own.infer()["y"]
            wrong.extend(got[got != 2 * value].tolist())

    threads = [
        threading.Thread(target=run, args=(session, 0)),
        threading.Thread(target=run, args=(session.twin(), 1000)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_close_twice_and_never_again(session: Session) -> None:
    session.close()
    session.close()
    with pytest.raises(InferenceError, match="closed"):
        session.infer()
    with pytest.raises(InferenceError, match="closed"):
        session.twin()


def test_a_larger_batch_on_request(real: Backend, tmp_path: Path) -> None:
    path = networks.save(networks.double(["batch", 4]), tmp_path)
    session = real.load(path, 1, {"x": (3, 4)})
    session.buffers["x"][...] = np.arange(12).reshape(3, 4)
    assert session.outputs[0].shape == (3, 4)
    np.testing.assert_array_equal(session.infer()["y"], 2 * np.arange(12).reshape(3, 4))


@pytest.mark.parametrize("wish", [(3, 5), (4,), (0, 4), (-1, 4)])
def test_a_shape_that_does_not_fit(real: Backend, tmp_path: Path, wish: tuple[int, ...]) -> None:
    path = networks.save(networks.double(["batch", 4]), tmp_path)
    with pytest.raises(ModelError, match=r"input 'x' takes \[-1, 4\]"):
        real.load(path, 1, {"x": wish})


def test_a_dynamic_size_that_nobody_chose(real: Backend, tmp_path: Path) -> None:
    path = networks.save(networks.double(["batch", 3, "height", "width"]), tmp_path)
    with pytest.raises(ModelError, match=r"dynamic dimensions: \[-1, 3, -1, -1\]"):
        real.load(path, 1)


def test_convolution(real: Backend, tmp_path: Path) -> None:
    session = real.load(networks.save(networks.box_blur(), tmp_path), 1)
    picture = np.arange(36, dtype=np.float32).reshape(6, 6)
    session.buffers["x"][0, 0] = picture
    windows = np.lib.stride_tricks.sliding_window_view(picture, (3, 3))
    np.testing.assert_allclose(session.infer()["y"][0, 0], windows.sum(axis=(2, 3)), rtol=1e-5)


def test_two_inputs_and_two_outputs(real: Backend, tmp_path: Path) -> None:
    session = real.load(networks.save(networks.two_outputs(), tmp_path), 1)
    assert [spec.name for spec in session.inputs] == ["a", "b"]
    assert [spec.name for spec in session.outputs] == ["sum", "product"]
    session.buffers["a"][...] = 3
    session.buffers["b"][...] = 4
    results = session.infer()
    assert results["sum"].tolist() == [[7.0] * 5]
    assert results["product"].tolist() == [[12.0] * 5]


def test_half_precision_tensors(real: Backend, tmp_path: Path) -> None:
    session = real.load(networks.save(networks.double([1, 8], networks.HALF), tmp_path), 1)
    assert session.buffers["x"].dtype == np.float16
    session.buffers["x"][...] = np.arange(8)
    result = session.infer()["y"]
    assert result.dtype == np.float16
    assert result.tolist() == [[0, 2, 4, 6, 8, 10, 12, 14]]


def test_bytes_in(real: Backend, tmp_path: Path) -> None:
    session = real.load(networks.save(networks.bytes_to_unit(), tmp_path), 1)
    assert session.buffers["x"].dtype == np.uint8
    session.buffers["x"][...] = [[[0, 51, 255], [102, 153, 204]]]
    expected = [[[0, 0.2, 1], [0.4, 0.6, 0.8]]]
    np.testing.assert_allclose(session.infer()["y"], expected, rtol=1e-6)


def test_an_output_whose_size_depends_on_the_values(real: Backend, tmp_path: Path) -> None:
    session = real.load(networks.save(networks.indexes_of_nonzero(), tmp_path), 1)
    for values in ([0, 1, 0, 1, 0, 0], [1, 1, 1, 0, 0, 1], [0] * 6):
        session.buffers["x"][...] = values
        assert session.infer()["y"].tolist() == [list(row) for row in np.nonzero([values])]


def test_nothing_is_lost_by_a_failed_run(real: Backend, tmp_path: Path) -> None:
    if real.name == "openvino":
        pytest.skip("OpenVINO reads zeros beyond a table's end and does not fail")
    session = real.load(networks.save(networks.out_of_range(), tmp_path), 1)
    session.buffers["i"][...] = 7
    with pytest.raises(InferenceError, match="ONNX Runtime failed"):
        session.infer()
    session.buffers["i"][...] = 2
    assert session.infer()["y"].tolist() == [[4.0, 5.0]]
