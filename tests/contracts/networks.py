"""Tiny ONNX networks, written where a test needs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOAT, HALF, BYTE, LONG = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.UINT8,
    TensorProto.INT64,
)
Value = tuple[str, int, Sequence[int | str | None]]


def network(
    nodes: Sequence[NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    weights: Sequence[TensorProto] = (),
    opset: int = 17,
    domains: Sequence[str] = (),
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        list(weights),
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def save(model: ModelProto, folder: Path, name: str = "tiny.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def double(shape: Sequence[int | str | None], kind: int = FLOAT) -> ModelProto:
    """y = x + x, elementwise."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return network([node], [("x", kind, shape)], [("y", kind, shape)])


def box_blur() -> ModelProto:
    """A 3×3 convolution of ones on [1, 1, 6, 6], no padding: y is [1, 1, 4, 4]."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3])
    weight = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    return network(
        [node], [("x", FLOAT, [1, 1, 6, 6])], [("y", FLOAT, [1, 1, 4, 4])], weights=[weight]
    )


def two_outputs() -> ModelProto:
    """sum = a + b and product = a * b."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Mul", ["a", "b"], ["product"]),
    ]
    shape = [1, 5]
    return network(
        nodes,
        [("a", FLOAT, shape), ("b", FLOAT, shape)],
        [("sum", FLOAT, shape), ("product", FLOAT, shape)],
    )


def bytes_to_unit() -> ModelProto:
    """uint8 0..255 to float 0..1, as a network with its preprocessing inside."""
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
        helper.make_node("Div", ["f", "d"], ["y"]),
    ]
    divisor = numpy_helper.from_array(np.array(255, np.float32), "d")
    shape = [1, 2, 3]
    return network(nodes, [("x", BYTE, shape)], [("y", FLOAT, shape)], weights=[divisor])


def indexes_of_nonzero() -> ModelProto:
    """Where x is not zero: an output whose size depends on the values."""
    node = helper.make_node("NonZero", ["x"], ["y"])
    return network([node], [("x", FLOAT, [1, 6])], [("y", LONG, [2, "found"])])


def out_of_range() -> ModelProto:
    """Row `i` of a table of three: a run with i = 7 fails in the middle of the network."""
    node = helper.make_node("Gather", ["table", "i"], ["y"])
    table = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "table")
    return network([node], [("i", LONG, [1])], [("y", FLOAT, [1, 2])], weights=[table])
