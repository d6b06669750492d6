"""Fully connected ends of a classifier as convolutions, so that they stay with their backbone.

Behind a Flatten the tensors have two dimensions. Every such tensor gets a twin with four, and the
layers work on the twins; what still needs the flat tensor gets it by one Flatten at the end.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetrt.model.graph import Graph, Node
from edgetrt.model.rewrites.edit import Edit

if TYPE_CHECKING:
    from edgetrt.model.shapes import Shapes
    from edgetrt.types import Shape

_FLATTENING = ("Flatten", "Reshape", "Squeeze")
_POINTWISE = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "Dropout", "Identity", "HardSwish")
_MAX_KERNEL, _MAX_CHANNELS = 32, 8192


def gemm_to_conv(graph: Graph, shapes: Shapes) -> tuple[Graph, tuple[Node, ...]]:
    """Give every flat tensor that ends in a constant matrix product a twin of four dimensions."""
    edit = Edit(graph, shapes)
    twins: dict[str, tuple[str, Shape]] = {}
    replaced: list[Node] = []
    for node in graph.nodes:
        _remember(edit, node, twins)
        if _twin(edit, node, twins):
            replaced.append(node)
        else:
            edit.keep(node)
    products = [node for node in replaced if node.op in ("Gemm", "MatMul")]
    return (edit.result(), tuple(replaced)) if products else (graph, ())


def _remember(edit: Edit, node: Node, twins: dict[str, tuple[str, Shape]]) -> None:
    """Note what a node flattens; it stays, and goes when nothing reads it any more."""
    if node.op not in _FLATTENING:
        return
    source, result = edit.shape(node.input(0)), edit.shape(node.outputs[0])
    if source is None or result is None or len(source) != 4 or len(result) != 2:
        return
    if result == (source[0], math.prod(source[1:])):
        twins[node.outputs[0]] = (node.input(0), source)


def _twin(edit: Edit, node: Node, twins: dict[str, tuple[str, Shape]]) -> bool:
    """Write a node once more on the twin of its input, and the flat result from that."""
    unread = [name for name in node.outputs[1:] if name not in edit.graph.consumers]
    if node.input(0) not in twins or len(unread) != len(node.outputs) - 1:
        return False
    tensor, shape = twins[node.input(0)]
    if node.op in ("Gemm", "MatMul"):
        made = _product(edit, node, tensor, shape)
    elif node.op in _POINTWISE and shape[2:] == (1, 1):
        attributes = dict(node.attributes)
        made = (edit.emit(node.op, (tensor, *node.inputs[1:]), node.name, **attributes), shape)
    elif node.op == "Add" and shape[2:] == (1, 1):
        made = _bias(edit, node, tensor, shape)
    elif node.op == "Softmax" and shape[2:] == (1, 1) and node.int("axis", -1) in (1, -1):
        made = (edit.emit("Softmax", (tensor,), node.name, axis=1), shape)
    else:
        return False
    if made is None:
        return False
    twins[node.outputs[0]] = made
    edit.emit("Flatten", (made[0],), node.name, outputs=node.outputs[:1], axis=1)
    return True


def _product(edit: Edit, node: Node, tensor: str, shape: Shape) -> tuple[str, Shape] | None:
    """A matrix product as a convolution whose kernel is the whole picture."""
    matrix = edit.weight(node.input(1))
    if matrix is None or matrix.ndim != 2 or max(shape[2:]) > _MAX_KERNEL:
        return None
    bias: Any = None
    if node.op == "Gemm":
        if node.int("transA", 0):
            return None
        matrix = matrix.T if not node.int("transB", 0) else matrix
        matrix = (matrix * node.float("alpha", 1.0)).astype(matrix.dtype)
        bias = edit.weight(node.input(2)) if node.input(2) else None
        if node.input(2) and (bias is None or bias.ndim > 1):
            return None
    else:
        matrix = matrix.T
    outputs = matrix.shape[0]
    if matrix.shape[1] != math.prod(shape[1:]) or max(outputs, shape[1]) > _MAX_CHANNELS:
        return None
    inputs = [tensor, edit.constant(node.name, matrix.reshape(outputs, *shape[1:]))]
    if bias is not None:
        scaled = np.broadcast_to(bias * node.float("beta", 1.0), (outputs,))
        inputs.append(edit.constant(node.name, scaled.astype(matrix.dtype)))
    made = edit.emit("Conv", inputs, node.name, kernel_shape=shape[2:])
    return made, (shape[0], outputs, 1, 1)


def _bias(edit: Edit, node: Node, tensor: str, shape: Shape) -> tuple[str, Shape] | None:
    values = edit.weight(node.input(1))
    if values is None or values.size != shape[1]:
        return None
    inputs = (tensor, edit.constant(node.name, values.reshape(1, -1, 1, 1)))
    return edit.emit("Add", inputs, node.name), shape
