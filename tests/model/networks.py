"""Small networks for the tests of precision: built in memory, seeded, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def network(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, ...]],
    outputs: dict[str, tuple[int | str, ...]],
    weights: dict[str, np.ndarray],
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info(n, FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def detector(seed: int = 0, pixels: float = 500.0) -> onnx.ModelProto:
    """Two convolutions, then a head whose output holds pixels and a score side by side.

    Input x 1×3×16×16, output `out` 1×5×256: cx cy w h in pixels up to about `pixels`, score 0..1.
    """
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("Add", ["r1", "r2"], ["sum"], "residual"),
        helper.make_node("Conv", ["sum", "wb"], ["box"], "box_head"),
        helper.make_node("Conv", ["sum", "ws"], ["logit"], "score_head"),
        helper.make_node("Sigmoid", ["box"], ["unit"], "box_unit"),
        helper.make_node("Mul", ["unit", "pixels"], ["boxes"], "to_pixels"),
        helper.make_node("Sigmoid", ["logit"], ["score"], "to_score"),
        helper.make_node("Concat", ["boxes", "score"], ["both"], "join", axis=1),
        helper.make_node("Reshape", ["both", "shape"], ["out"], "flat"),
    ]
    weights = {
        "w1": weight(8, 3, 3, 3),
        "b1": weight(8, 1)[:, 0],
        "w2": weight(8, 8, 3, 3),
        "b2": weight(8, 1)[:, 0],
        "wb": weight(4, 8, 1, 1),
        "ws": weight(1, 8, 1, 1) * 3,
        "pixels": np.full((1, 4, 1, 1), pixels, np.float32),
        "shape": np.array([1, 5, 256], np.int64),
    }
    return network(nodes, {"x": (1, 3, 16, 16)}, {"out": (1, 5, 256)}, weights)


def images(count: int, seed: int = 1) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.random((1, 3, 16, 16), np.float32)} for _ in range(count)]
