"""A light view of an ONNX graph, shared by everything that reasons about or rewrites networks.

Weights stay the TensorProto objects they were loaded as: a rewritten graph shares them with the one
it came from, so that a chain of rewrites costs nodes, not copies of the network.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgetrt.types import Shape, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy as np
    import onnx
    from numpy.typing import NDArray

_STANDARD_DOMAINS = ("", "ai.onnx")
_WEIGHTS_ARE_NO_INPUTS = 4

# TensorProto.DataType to numpy's name, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    8: "object", 9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
    14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8_e4m3fn", 18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4_e2m1fn",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operator of the graph.

    Attributes:
        name: as in the file, or `op_index` where the exporter wrote none.
        op: ONNX's operator name; with its domain in front when that is not ONNX's own.
        inputs: tensor names; an omitted optional input is "".
        outputs: tensor names.
        attributes: by name, as Python values; subgraphs as GraphProto.
        captured: tensors of this graph that its subgraphs (If, Loop, Scan) read.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    captured: tuple[str, ...] = ()

    def input(self, index: int) -> str:
        """Name of an input, "" when it was left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def ints(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        return tuple(self.attributes.get(name, default))

    def int(self, name: str, default: int) -> int:
        """An attribute that is an integer."""
        return int(self.attributes.get(name, default))

    def float(self, name: str, default: float) -> float:
        """An attribute that is a number."""
        return float(self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        """An attribute that is a string."""
        value = self.attributes.get(name, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@dataclass(frozen=True, eq=False)
class Graph:
    """The main graph of a model; frozen, a change gives another graph.

    Attributes:
        nodes: in an order in which they can run.
        weights: initializers by name.
        inputs: value infos of the tensors to be fed; weights are not among them.
        outputs: value infos of the results.
        opset: version of ONNX's own operators.
        shell: the model without its graph: version, producer, metadata, functions.
        declared: shapes of tensors inside, as the exporter wrote them.
    """

    nodes: tuple[Node, ...]
    weights: Mapping[str, onnx.TensorProto]
    inputs: tuple[onnx.ValueInfoProto, ...]
    outputs: tuple[onnx.ValueInfoProto, ...]
    opset: int
    shell: onnx.ModelProto
    declared: tuple[onnx.ValueInfoProto, ...] = ()

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Graph:
        """View a model; its weights are shared, not copied."""
        import onnx

        shell = onnx.ModelProto()
        for descriptor, value in model.ListFields():
            if descriptor.name != "graph":
                _assign(shell, descriptor.name, value)
        shell.graph.name = model.graph.name
        weights = {tensor.name: tensor for tensor in model.graph.initializer}
        return cls(
            nodes=tuple(_node(proto, index) for index, proto in enumerate(model.graph.node)),
            weights=weights,
            inputs=tuple(value for value in model.graph.input if value.name not in weights),
            outputs=tuple(model.graph.output),
            opset=next(
                (item.version for item in model.opset_import if item.domain in _STANDARD_DOMAINS), 1
            ),
            shell=shell,
            declared=tuple(model.graph.value_info),
        )

    def to_model(self, *, weights_over: int | None = None) -> onnx.ModelProto:
        """Write it as a model again.

        Args:
            weights_over: leave out weights of more elements than this and declare them as inputs:
                enough for shape inference, and the size of the model without its data.
        """
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.shell)
        # Before version 4 every weight had to be an input as well.
        model.ir_version = max(model.ir_version, _WEIGHTS_ARE_NO_INPUTS)
        model.graph.node.extend(_proto(node) for node in self.nodes)
        model.graph.input.extend(self.inputs)
        model.graph.output.extend(self.outputs)
        model.graph.value_info.extend(self.declared)
        for name, tensor in self.weights.items():
            if weights_over is None or _count(tensor.dims) <= weights_over:
                model.graph.initializer.append(tensor)
            else:
                model.graph.input.append(
                    onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
                )
        return model

    @cached_property
    def producers(self) -> dict[str, Node]:
        """The node that makes a tensor, by tensor name."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @cached_property
    def consumers(self) -> dict[str, list[Node]]:
        """The nodes that read a tensor, by tensor name, each once."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs + node.captured):
                if name:
                    readers.setdefault(name, []).append(node)
        return readers

    @cached_property
    def output_names(self) -> frozenset[str]:
        """Names of the results."""
        return frozenset(value.name for value in self.outputs)

    def weight(self, name: str) -> NDArray[np.generic] | None:
        """Values of a weight; None when there is none, or its data is in another file."""
        from onnx import numpy_helper

        tensor = self.weights.get(name)
        if tensor is None or tensor.data_location == tensor.EXTERNAL:
            return None
        array: NDArray[np.generic] = numpy_helper.to_array(tensor)
        return array

    def operators(self) -> dict[str, int]:
        """How often each operator is used, most frequent first."""
        counts: dict[str, int] = {}
        for node in self.nodes:
            counts[node.op] = counts.get(node.op, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def parameters(self) -> int:
        """Numbers in the weights, wherever they lie: also in Constant nodes and in the bodies of If and Loop.

        Index lists of integers are none.
        """
        held = [v for node in self.nodes for v in node.attributes.values() if hasattr(v, "dims")]
        bodies = [v for node in self.nodes for v in node.attributes.values() if hasattr(v, "node")]
        inside = (tensor for body in bodies for tensor in _tensors(body))
        return sum(
            _count(tensor.dims)
            for tensor in (*self.weights.values(), *held, *inside)
            if _DTYPES.get(tensor.data_type) not in ("int64", "bool", "object")
        )

    def with_nodes(
        self, nodes: Iterable[Node], weights: Mapping[str, onnx.TensorProto] | None = None
    ) -> Graph:
        """The same graph with other nodes, and with more weights."""
        return replace(self, nodes=tuple(nodes), weights={**self.weights, **(weights or {})})

    def with_only(self, nodes: Iterable[Node], weights: Mapping[str, onnx.TensorProto]) -> Graph:
        """The same graph with other nodes and other weights."""
        return replace(self, nodes=tuple(nodes), weights=weights)


def tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    """Name, shape (-1 where dynamic) and numpy type name of a graph's input or output."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return TensorSpec(value.name, (), (kind or "unknown").removesuffix("_type"))
    tensor = value.type.tensor_type
    return TensorSpec(value.name, shape_of(value) or (), dtype_name(tensor.elem_type))


def shape_of(value: onnx.ValueInfoProto) -> Shape | None:
    """Dimensions with -1 where dynamic, or None when even the rank is unknown."""
    tensor = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type" or not tensor.HasField("shape"):
        return None
    return tuple(
        d.dim_value if d.WhichOneof("value") == "dim_value" and d.dim_value >= 0 else -1
        for d in tensor.shape.dim
    )


def dtype_name(code: int) -> str:
    """Numpy's name of a TensorProto.DataType."""
    return _DTYPES.get(code, "unknown")


def _node(proto: onnx.NodeProto, index: int) -> Node:
    op = proto.op_type
    if proto.domain not in _STANDARD_DOMAINS:
        op = f"{proto.domain}::{op}"
    attributes = {item.name: _value(item) for item in proto.attribute}
    captured: dict[str, None] = {}
    for value in attributes.values():
        if hasattr(value, "node"):
            captured.update(dict.fromkeys(_reads(value)))
    return Node(
        name=proto.name or f"{proto.op_type}_{index}",
        op=op,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attributes=attributes,
        captured=tuple(captured),
    )


def _value(attribute: onnx.AttributeProto) -> Any:
    """An attribute's value; a reference to a function's attribute has none."""
    import onnx

    try:
        return onnx.helper.get_attribute_value(attribute)
    except ValueError:
        return None


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of values in a subgraph and below it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)


def _reads(graph: onnx.GraphProto) -> list[str]:
    """Tensors that a subgraph takes from outside."""
    own = {name for node in graph.node for name in node.output}
    own.update(value.name for value in graph.input)
    own.update(tensor.name for tensor in graph.initializer)
    names = [name for node in graph.node for name in node.input]
    names += [value.name for value in graph.output]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names += _reads(attribute.g)
    return [name for name in names if name and name not in own]


def _proto(node: Node) -> onnx.NodeProto:
    import onnx

    domain, _, op = node.op.rpartition("::")
    proto = onnx.NodeProto(
        name=node.name, op_type=op, domain=domain, input=node.inputs, output=node.outputs
    )
    proto.attribute.extend(
        onnx.helper.make_attribute(name, value)
        for name, value in node.attributes.items()
        if value is not None
    )
    return proto


def _assign(target: onnx.ModelProto, name: str, value: Any) -> None:
    """Copy one field of a message, scalar or repeated."""
    if isinstance(value, (int, str, bytes)):
        setattr(target, name, value)
    else:
        getattr(target, name).extend(value)


def _count(dims: Iterable[int]) -> int:
    count = 1
    for dim in dims:
        count *= dim
    return count
