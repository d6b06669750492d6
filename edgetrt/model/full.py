"""A network that was stored in FP16, back in FP32: INT8 is calibrated and quantized from there.

Inputs and outputs keep their type, behind a cast each, so that whatever feeds the network stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from edgetrt.errors import ModelError
from edgetrt.model.references import array_of
from edgetrt.model.storage import Spool, read_skeleton, write_network
from edgetrt.model.wiring import has_body

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
_TYPES = ("to", "dtype")
"""Attributes that name the type of a node's output."""


def is_half(model: onnx.ModelProto) -> bool:
    """True for a network whose weights are stored in FP16, some of them at least."""
    held = [tensor.data_type for tensor in model.graph.initializer]
    held += [tensor.data_type for node in model.graph.node for tensor in _values(node)]
    return HALF in held


def cast_full(path: Path, out: Path) -> None:
    """Write a network with everything that is FP16 inside as FP32.

    Args:
        path: the network.
        out: where the new one goes; its folder must exist.

    Raises:
        ModelError: not readable, or with FP16 inside control flow.
    """
    model = read_skeleton(path)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    given = [v.name for v in graph.input if _is_half(v) and v.name not in weights]
    results = [value.name for value in graph.output if _is_half(value)]
    names = {name: f"{name}_fp32" for name in (*given, *results)}
    with Spool(out.with_name(out.name + ".spool")) as spool:
        for tensor in graph.initializer:
            if tensor.data_type == HALF:
                tensor.CopyFrom(spool.add(tensor.name, array_of(tensor).astype(np.float32)))
        for value in graph.input:  # older exporters list weights there, too
            if value.name in weights and _is_half(value):
                value.type.tensor_type.elem_type = FLOAT
        for node in graph.node:
            if has_body(node):
                raise ModelError(
                    f"{path}: stored in FP16, with control flow ({node.op_type}) in it: it cannot be cast "
                    "to FP32, from which INT8 is made",
                    "Export the network in FP32.",
                )
            _cast(node)
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        del graph.value_info[:]
        first = [_cast_node(name, names[name], FLOAT) for name in given]
        last = [_cast_node(names[name], name, HALF) for name in results]
        nodes = [*first, *graph.node, *last]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
        write_network(model, out)


def _cast(node: onnx.NodeProto) -> None:
    for tensor in _values(node):
        if tensor.data_type == HALF:
            values = array_of(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for attribute in node.attribute:
        if attribute.name in _TYPES and attribute.i == HALF:
            attribute.i = FLOAT


def _values(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """Tensors that a node holds itself."""
    return (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _is_half(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == HALF)


def _cast_node(source: str, target: str, kind: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [target], f"{target}_io_cast", to=kind)
