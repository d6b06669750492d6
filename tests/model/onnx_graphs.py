"""Small networks, made for one test each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgetrt.model.graph import Graph

Dim = int | str
RANDOM = np.random.default_rng(7)


def weights(*shape: int) -> NDArray[np.float32]:
    return (RANDOM.standard_normal(shape) / max(np.sqrt(np.prod(shape[1:])), 1)).astype(np.float32)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[Dim]],
    outputs: Sequence[str],
    constants: Mapping[str, NDArray[Any]] | None = None,
    opset: int = 17,
    metadata: Mapping[str, str] | None = None,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model whose outputs have the shapes that inference gives them."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(made, dict(metadata or {}))
    return onnx.shape_inference.infer_shapes(made)


def graph_of(*args: Any, **kwargs: Any) -> Graph:
    return Graph.of(model(*args, **kwargs))


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """Names are separated by blanks; `-` is an input left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), name=f"{op}:{outputs}", **attributes)


def one(op: str, shape: Sequence[Dim] = (1, 8, 16, 16), **attributes: Any) -> Graph:
    """A network of one operator on `x`, which gives `y`."""
    return graph_of([node(op, "x", "y", **attributes)], {"x": shape}, ["y"])


def conv(
    channels: tuple[int, int] = (8, 8),
    kernel: int = 3,
    shape: Sequence[Dim] | None = None,
    **attributes: Any,
) -> Graph:
    """A network of one convolution."""
    values = weights(channels[1], channels[0], kernel, kernel)
    attributes.setdefault("pads", [kernel // 2] * 4)
    made = node("Conv", "x w", "y", **attributes)
    return graph_of([made], {"x": shape or (1, channels[0], 32, 32)}, ["y"], {"w": values})


def save(made: onnx.ModelProto, folder: Path, name: str = "net.onnx") -> Path:
    path = folder / name
    onnx.save(made, path)
    return path
