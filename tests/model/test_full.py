"""FP16 networks as FP32 ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetrt.model.full import cast_full

onnxruntime = pytest.importorskip("onnxruntime")


def test_weights_that_are_listed_as_inputs_are_cast_with_their_tensors(tmp_path: Path) -> None:
    half = TensorProto.FLOAT16
    ends = {name: helper.make_tensor_value_info(name, half, [2]) for name in "xwy"}
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "scaled",
        [ends["x"], ends["w"]],
        [ends["y"]],
        [numpy_helper.from_array(np.array([2, 3], np.float16), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path, out = tmp_path / "half.onnx", tmp_path / "full.onnx"
    onnx.save(model, path)

    cast_full(path, out)

    onnx.checker.check_model(onnx.load(out), full_check=True)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.array([5, 7], np.float16)})
    assert found.tolist() == [10, 21]
