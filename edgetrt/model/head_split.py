"""Where to cut a network so that its backbone stays whole on the DLA and the decode runs on the GPU.

A decoded detector ends in layers that the DLA lacks, and between them are some that it has: left to
itself, TensorRT sends those few back to the DLA, in loadables of their own. Cut before the first
layer that does not fit and everything behind it is the GPU's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx

from edgetrt.model import shapes as shape_inference
from edgetrt.model.rewrites.edit import pruned

if TYPE_CHECKING:
    from edgetrt.model.graph import Graph, Node
    from edgetrt.model.placement import Placement
    from edgetrt.model.shapes import Shapes

MAX_TAIL_SHARE = 0.05
"""Part of the FLOPs that may lie behind the cut; more, and it is no decode but a broken backbone."""

METADATA_KEY = "edgetrt.head_split"


@dataclass(frozen=True, slots=True)
class HeadSplit:
    """A cut.

    Attributes:
        cut: tensors that pass from the backbone to the decode.
        gpu_layers: names of all nodes behind the cut, to be pinned to the GPU.
        lifted: how many of them TensorRT would have put on the DLA by themselves.
        tail_share: part of the FLOPs behind the cut.
        reason: why the first layer behind the cut is not on the DLA.
    """

    cut: tuple[str, ...]
    gpu_layers: tuple[str, ...]
    lifted: int
    tail_share: float
    reason: str

    def __str__(self) -> str:
        count = len(self.gpu_layers)
        return (
            f"head_split: up to {', '.join(self.cut)} on the DLA; the last {count} "
            f"layer{'s' * (count != 1)} ({self.tail_share:.2%} of the FLOPs) on the GPU: {self.reason}"
        )


def find_split(graph: Graph, placement: Placement) -> HeadSplit | None:
    """The cut behind everything that reaches the DLA without passing the GPU.

    None when no compute layer stays on the GPU, when nothing can run before it, or when more than
    `MAX_TAIL_SHARE` of the work lies behind it: then it is the backbone that does not fit.
    """
    if not placement.gpu_compute:
        return None
    shapes = shape_inference.infer(graph)
    tail = _tail(graph, placement, shapes)
    head = [index for index in range(len(graph.nodes)) if index not in tail]
    if not tail or not any(placement.layers[index].device == "dla" for index in head):
        return None
    total = sum(layer.flops for layer in placement.layers) or 1
    share = sum(placement.layers[index].flops for index in tail) / total
    if share > MAX_TAIL_SHARE:
        return None
    layers = [placement.layers[index] for index in sorted(tail)]
    return HeadSplit(
        cut=_cut(graph, tail, shapes),
        gpu_layers=tuple(layer.name for layer in layers if layer.device != "folded"),
        lifted=sum(layer.device == "dla" for layer in layers),
        tail_share=share,
        reason=next(layer.reason for layer in layers if layer.device == "gpu"),
    )


def split_parts(graph: Graph, split: HeadSplit) -> tuple[Graph, Graph]:
    """The backbone, which ends in the cut, and the decode, which begins with it."""
    shapes = shape_inference.infer(graph)
    values = tuple(_value_info(name, shapes) for name in split.cut)
    backbone = pruned(replace(graph, outputs=values, declared=()))
    cut = set(split.cut)
    nodes = [node for node in graph.nodes if not cut.intersection(node.outputs)]
    decode = pruned(replace(graph, nodes=tuple(nodes), inputs=(*graph.inputs, *values)))
    read = {name for node in decode.nodes for name in (*node.inputs, *node.captured)}
    inputs = tuple(value for value in decode.inputs if value.name in read)
    return backbone, replace(decode, inputs=inputs)


def marked(graph: Graph, split: HeadSplit) -> Graph:
    """The same network with the cut in its metadata, for the builder to pin the layers."""
    shell = onnx.ModelProto()
    shell.CopyFrom(graph.shell)
    kept = [item for item in shell.metadata_props if item.key != METADATA_KEY]
    del shell.metadata_props[:]
    shell.metadata_props.extend(kept)
    value = json.dumps({"cut": split.cut, "gpu_layers": split.gpu_layers})
    shell.metadata_props.add(key=METADATA_KEY, value=value)
    return replace(graph, shell=shell)


def _tail(graph: Graph, placement: Placement, shapes: Shapes) -> set[int]:
    """Nodes on the GPU, and all nodes behind one."""
    behind: set[str] = set()
    tail: set[int] = set()
    for index, node in enumerate(graph.nodes):
        layer = placement.layers[index]
        if layer.device == "folded" and not _depends(node, shapes):
            continue
        if layer.device == "gpu" or behind.intersection((*node.inputs, *node.captured)):
            tail.add(index)
            behind.update(filter(None, node.outputs))
    return tail


def _depends(node: Node, shapes: Shapes) -> bool:
    """Whether a node's result depends on the network's input."""
    return any(name and name not in shapes.constant for name in node.outputs)


def _cut(graph: Graph, tail: set[int], shapes: Shapes) -> tuple[str, ...]:
    """Tensors made before the cut and read behind it, or given out as they are."""
    before = {
        name
        for index, node in enumerate(graph.nodes)
        if index not in tail and _depends(node, shapes)
        for name in node.outputs
        if name
    }
    read = [name for index in sorted(tail) for name in graph.nodes[index].inputs]
    read += [value.name for value in graph.outputs]
    return tuple(dict.fromkeys(name for name in read if name in before))


def _value_info(name: str, shapes: Shapes) -> onnx.ValueInfoProto:
    shape = shapes.shape(name)
    dims = None if shape is None else [None if dim < 0 else dim for dim in shape]
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(shapes.dtypes.get(name, "float32")))
    return onnx.helper.make_tensor_value_info(name, kind, dims)
