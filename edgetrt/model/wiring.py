"""Who makes and who reads each tensor of a graph, and of which element type it is."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import onnx
from numpy.typing import NDArray

from edgetrt.errors import ModelError
from edgetrt.model.references import array_of

STANDARD_DOMAINS = ("", "ai.onnx")

WEIGHTED = frozenset(
    ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Attention", "Einsum")
)
"""Operators that do nearly all the arithmetic of a network, with trained weights."""

MOVES = frozenset(
    (
        *("Reshape", "Transpose", "Concat", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten"),
        *("Identity", "Expand", "Gather", "GatherElements", "GatherND", "Tile", "Dropout", "Pad"),
        *("DepthToSpace", "SpaceToDepth", "ReverseSequence"),
    )
)
"""Operators that move values and compute nothing."""


@dataclass(frozen=True)
class Wiring:
    """Reading aid over a skeleton; never changes it."""

    model: onnx.ModelProto

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that makes each tensor."""
        return {name: node for node in self.model.graph.node for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read each tensor, those with a body that reads it included."""
        out: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.model.graph.node:
            for name in dict.fromkeys([*node.input, *captured(node)]):
                out[name].append(node)
        return dict(out)

    @cached_property
    def weights(self) -> dict[str, onnx.TensorProto]:
        """Initializers that a caller cannot override."""
        inputs = {value.name for value in self.model.graph.input}
        return {t.name: t for t in self.model.graph.initializer if t.name not in inputs}

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        """Weights, and what Constant nodes hold as a tensor."""
        out = dict(self.weights)
        for node in self.model.graph.node:
            if node.op_type == "Constant" and node.domain in STANDARD_DOMAINS:
                out.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
        return out

    @cached_property
    def outputs(self) -> frozenset[str]:
        """Names of the network's outputs."""
        return frozenset(value.name for value in self.model.graph.output)

    @cached_property
    def types(self) -> dict[str, int]:
        """Element type of each tensor of the graph that shape inference can tell."""
        return {name: value.elem_type for name, value in self._tensors.items()}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor whose rank is known; -1 where a dimension is not."""
        return {
            name: tuple(d.dim_value if d.HasField("dim_value") else -1 for d in value.shape.dim)
            for name, value in self._tensors.items()
            if value.HasField("shape")
        }

    @cached_property
    def _tensors(self) -> dict[str, onnx.TypeProto.Tensor]:
        graph = infer(self.model).graph
        values = [*graph.value_info, *graph.input, *graph.output]
        out = {v.name: v.type.tensor_type for v in values if v.type.HasField("tensor_type")}
        for name, tensor in self.constants.items():
            shape = onnx.TensorShapeProto(
                dim=[onnx.TensorShapeProto.Dimension(dim_value=d) for d in tensor.dims]
            )
            out[name] = onnx.TypeProto.Tensor(elem_type=tensor.data_type, shape=shape)
        return out

    def floats(self) -> set[str]:
        """Tensors of 32-bit floating point, weights included."""
        return {name for name, kind in self.types.items() if kind == onnx.TensorProto.FLOAT}

    def activations(self) -> list[str]:
        """Floating-point tensors that depend on the input, in the order they are made."""
        floats = self.floats()
        names = [value.name for value in self.model.graph.input if value.name not in self.weights]
        names += [n for node in self.model.graph.node for n in node.output]
        return [name for name in names if name in floats and name not in self.constants]

    def constant(self, name: str) -> NDArray | None:  # type: ignore[type-arg]
        """Values of a weight or constant; None when the tensor is computed."""
        tensor = self.constants.get(name)
        return None if tensor is None else array_of(tensor)

    def before_weights(self) -> set[str]:
        """Names of tensors from which a weighted operator can still be reached.

        What is not among them, and not made by a weighted operator, is the decode.
        """
        reached: set[str] = set()
        for node in reversed(self.model.graph.node):
            if node.op_type in WEIGHTED or any(name in reached for name in node.output):
                reached.update(name for name in (*node.input, *captured(node)) if name)
        return reached


def infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network with every type and shape that follows.

    Raises:
        ModelError: its operators contradict each other, or what it says of its tensors.
    """
    try:
        return onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(
            f"{model.graph.name or 'network'}: types or shapes do not fit: {error}",
            "Export it again, or install a newer onnx.",
        ) from error


def captured(node: onnx.NodeProto) -> list[str]:
    """Every name that a node's bodies (If, Loop, Scan) read; some are their own."""
    names: list[str] = []
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names += [*inner.input, *captured(inner)]
            names += [value.name for value in graph.output]
    return [name for name in names if name]


def has_body(node: onnx.NodeProto) -> bool:
    """True for control flow: the node holds a graph."""
    return any(a.HasField("g") or a.graphs for a in node.attribute)


def with_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node has a name of its own, as reports and exclusions need."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    seen: set[str] = set()
    for index, node in enumerate(named.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.name or node.op_type}_{index}"
        seen.add(node.name)
    return named
