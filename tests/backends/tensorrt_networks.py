"""Small networks for the tests of the builder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path


def conv_net(path: Path, batch: int | str = 1, custom: int = 0, softmax: bool = True) -> Path:
    """conv1 > relu1 > conv2 > [softmax] [> custom operators]; 3×8×8 in, 4×8×8 out."""
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    second = np.random.default_rng(1).normal(size=(4, 4, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu1"),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="conv2"),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["c"], ["d"], name="softmax", axis=1))
    for index in range(custom):
        last = nodes[-1].output[0]
        nodes.append(
            helper.make_node("Foo", [last], [f"f{index}"], name=f"foo{index}", domain="custom")
        )
    last = nodes[-1].output[0]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [batch, 4, 8, 8])],
        [numpy_helper.from_array(weights, "w1"), numpy_helper.from_array(second, "w2")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("custom", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    onnx.save(model, str(path))
    return path
