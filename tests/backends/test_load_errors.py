"""What a person reads when a network cannot be loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper

from edgetrt.backends.onnxruntime import OnnxRuntimeBackend
from edgetrt.backends.openvino import OpenVinoBackend
from edgetrt.errors import BackendError, ModelError, UnsupportedOperatorError
from edgetrt.ports import Backend
from tests.contracts import networks


@pytest.fixture(params=[OnnxRuntimeBackend, OpenVinoBackend])
def backend(request: pytest.FixtureRequest) -> Backend:
    make: Callable[[], Backend] = request.param
    try:
        return make()
    except BackendError as error:
        pytest.skip(error.message)


def _refusal(backend: Backend, path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        backend.load(path, 1)
    assert caught.value.message.startswith(f"{path}: ")
    assert len(caught.value.message) < len(str(path)) + 300
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


def test_missing(backend: Backend, tmp_path: Path) -> None:
    assert "no such file" in _refusal(backend, tmp_path / "none.onnx").message


def test_a_folder(backend: Backend, tmp_path: Path) -> None:
    assert "got a folder" in _refusal(backend, tmp_path).message


def test_empty(backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "empty.onnx"
    path.touch()
    assert "empty" in _refusal(backend, path).message


def test_truncated(backend: Backend, tmp_path: Path) -> None:
    path = networks.save(networks.box_blur(), tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    assert "can load" in _refusal(backend, path).message


def test_not_onnx(backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "notes.onnx"
    path.write_text("these are notes, not a network\n" * 20)
    assert "copied completely" in _refusal(backend, path).hint


def test_external_data_missing(backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "split.onnx"
    onnx.save(
        networks.box_blur(),
        path,
        save_as_external_data=True,
        location="split.bin",
        size_threshold=0,
    )
    (tmp_path / "split.bin").unlink()
    refusal = _refusal(backend, path)
    assert "external data" in refusal.message
    assert "split.bin" in refusal.message


@pytest.mark.parametrize(("op", "domain"), [("Frobnicate", ""), ("Frobnicate", "org.example")])
def test_an_operator_nobody_knows(backend: Backend, tmp_path: Path, op: str, domain: str) -> None:
    node = helper.make_node(op, ["x"], ["y"], domain=domain)
    shape = [1, 4]
    model = networks.network(
        [node],
        [("x", networks.FLOAT, shape)],
        [("y", networks.FLOAT, shape)],
        domains=[domain] if domain else [],
    )
    refusal = _refusal(backend, networks.save(model, tmp_path))
    assert isinstance(refusal, UnsupportedOperatorError)
    assert op in refusal.message


def test_an_opset_from_the_future(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    shape = [1, 4]
    model = networks.network(
        [node], [("x", networks.FLOAT, shape)], [("y", networks.FLOAT, shape)], opset=99
    )
    refusal = _refusal(OnnxRuntimeBackend(), networks.save(model, tmp_path))
    assert isinstance(refusal, UnsupportedOperatorError)
    assert "opset 99" in refusal.message


def test_a_tensor_of_text(tmp_path: Path) -> None:
    kind = onnx.TensorProto.STRING
    node = helper.make_node("Identity", ["x"], ["y"])
    model = networks.network([node], [("x", kind, [1])], [("y", kind, [1])])
    refusal = _refusal(OnnxRuntimeBackend(), networks.save(model, tmp_path))
    assert "tensor(string)" in refusal.message
