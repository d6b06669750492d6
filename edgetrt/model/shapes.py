"""Shapes, types and small constants of every tensor, as far as they are known before the first run.

ONNX's shape inference does the work on a copy without weights. What it leaves open in the
arithmetic of shapes is evaluated by `model.fold`, in a few rounds, so that an exported
`Shape -> Gather -> Concat -> Reshape` chain ends in a fixed shape as it does in TensorRT.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgetrt.model.fold import SMALL, evaluate
from edgetrt.model.graph import Graph, Node, dtype_name, shape_of
from edgetrt.types import Shape

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

_ROUNDS = 4
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli")
_STATEFUL = ("If", "Loop", "Scan", "Multinomial", "Dropout", "Optional", *_RANDOM)


@dataclass(frozen=True, eq=False)
class Shapes:
    """What is known of the tensors of a graph.

    Attributes:
        shapes: -1 where a dimension is dynamic or unknown; a tensor of unknown rank is missing.
        dtypes: numpy's type names; an unknown one is missing.
        values: constants of at most a few thousand elements.
        constant: tensors that do not depend on the network's inputs, whatever their size.
        complete: False when shape inference refused the model, and only declared shapes are known.
    """

    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    values: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    constant: frozenset[str] = frozenset()
    complete: bool = True

    def shape(self, name: str) -> Shape | None:
        """Shape of a tensor, None when not even the rank is known."""
        return self.shapes.get(name)

    def ints(self, name: str) -> tuple[int, ...] | None:
        """Values of a small constant as integers, flattened; None when they are not known."""
        value = self.values.get(name)
        return None if value is None else tuple(int(item) for item in value.reshape(-1).tolist())

    def floats(self, name: str) -> tuple[float, ...] | None:
        """Values of a small constant as floats, flattened; None when they are not known."""
        value = self.values.get(name)
        if value is None or value.dtype.kind not in "fiub":
            return None
        return tuple(float(item) for item in value.reshape(-1).tolist())


def infer(graph: Graph) -> Shapes:
    """Infer what can be known without running the network."""
    values = {name: value for name in graph.weights if (value := _small(graph, name)) is not None}
    for _ in range(_ROUNDS):
        shapes, dtypes, complete = _inferred(graph, values)
        known = len(values)
        constant = _fold(graph, shapes, values)
        if len(values) == known:
            break
    return Shapes(shapes, dtypes, values, frozenset(constant), complete)


def _small(graph: Graph, name: str) -> NDArray[np.generic] | None:
    tensor = graph.weights[name]
    count = 1
    for dim in tensor.dims:
        count *= dim
    return graph.weight(name) if count <= SMALL else None


def _inferred(
    graph: Graph, values: dict[str, NDArray[np.generic]]
) -> tuple[dict[str, Shape], dict[str, str], bool]:
    """ONNX's inference over the graph with folded nodes replaced by their values."""
    import onnx

    model = _skeleton(graph, values)
    complete = True
    try:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        complete = False
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, str] = {}
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        shape = shape_of(value)
        if shape is not None:
            shapes[value.name] = shape
            dtypes[value.name] = dtype_name(value.type.tensor_type.elem_type)
    for name, tensor in graph.weights.items():
        shapes[name] = tuple(tensor.dims)
        dtypes[name] = dtype_name(tensor.data_type)
    for name, array in values.items():
        shapes[name] = array.shape
        dtypes[name] = array.dtype.name
    return shapes, dtypes, complete


def _skeleton(graph: Graph, values: dict[str, NDArray[np.generic]]) -> onnx.ModelProto:
    """The model without large weights and with known constants as initializers."""
    from onnx import numpy_helper

    folded = [n for n in graph.nodes if not all(name in values for name in n.outputs if name)]
    made = {name for node in graph.nodes for name in node.outputs}
    extra = {
        name: numpy_helper.from_array(array, name) for name, array in values.items() if name in made
    }
    return graph.with_nodes(folded, extra).to_model(weights_over=SMALL)


def _fold(
    graph: Graph, shapes: dict[str, Shape], values: dict[str, NDArray[np.generic]]
) -> set[str]:
    """Extend `values` by what can be computed from it; returns all tensors that are constant."""
    constant = set(graph.weights) | {""}
    for node in graph.nodes:
        if not _is_constant(node, shapes, constant):
            continue
        constant.update(node.outputs)
        if all(name in values for name in node.outputs):
            continue
        result = evaluate(node, shapes, values)
        if result is not None and result.size <= SMALL:
            values[node.outputs[0]] = result
    return constant - {""}


def _is_constant(node: Node, shapes: dict[str, Shape], constant: set[str]) -> bool:
    if node.op in _STATEFUL or node.captured:
        return False
    if node.op in ("Shape", "Size"):
        shape = shapes.get(node.input(0))
        return shape is not None and min(shape, default=1) >= 0
    return all(name in constant for name in node.inputs)
