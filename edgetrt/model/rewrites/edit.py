"""What a rewrite writes with: new nodes, new constants, names that are not taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import numpy_helper

from edgetrt.model.fold import evaluate
from edgetrt.model.graph import Graph, Node

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from edgetrt.model.shapes import Shapes
    from edgetrt.types import Shape

_LARGEST = 1 << 28
"""Elements up to which a constant is written out."""

Rule = Callable[["Edit", Node], bool]
"""Writes what replaces a node and returns True, or writes nothing and returns False."""


class Edit:
    """A graph while it is copied node by node, with some nodes replaced.

    Attributes:
        graph: as it was.
        shapes: of the graph as it was.
    """

    def __init__(self, graph: Graph, shapes: Shapes) -> None:
        self.graph = graph
        self.shapes = shapes
        self._nodes: list[Node] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._taken = {name for node in graph.nodes for name in (node.name, *node.outputs)}
        self._taken |= set(graph.weights) | {value.name for value in graph.inputs}

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        stem: str,
        *,
        outputs: Sequence[str] = (),
        **attributes: Any,
    ) -> str:
        """Write a node and return its first output, a fresh tensor unless `outputs` names it."""
        name = self._fresh(f"{stem}/{op}")
        made = tuple(outputs) or (self._fresh(f"{stem}/{op}_output"),)
        self._nodes.append(Node(name, op, tuple(inputs), made, attributes))
        return made[0]

    def keep(self, node: Node) -> None:
        """Write a node as it was."""
        self._nodes.append(node)

    def constant(self, stem: str, values: NDArray[np.generic]) -> str:
        """Add a weight and return its name."""
        name = self._fresh(f"{stem}/constant")
        self._weights[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def scalar(self, node: Node, value: float) -> str:
        """Add a number in the element type of a node's first input."""
        return self.constant(node.name, np.asarray(value, self.dtype(node.input(0))))

    def dtype(self, name: str) -> np.dtype[Any]:
        """Element type of a tensor; float32 when it is not known."""
        known = self.shapes.dtypes.get(name, "float32")
        return np.dtype(known if known in ("float16", "float64") else "float32")

    def shape(self, name: str) -> Shape | None:
        """Shape of a tensor when all of it is known."""
        shape = self.shapes.shape(name)
        return shape if shape is not None and min(shape, default=1) >= 0 else None

    def weight(self, name: str) -> NDArray[Any] | None:
        """Values of a constant of any size, whether a weight or computed from weights."""
        known = self.shapes.values.get(name)
        if known is None:
            known = self.graph.weight(name)
        maker = self.graph.producers.get(name)
        if known is not None or maker is None or name not in self.shapes.constant:
            return known
        made = {source: self.weight(source) for source in maker.inputs if source}
        values = {source: array for source, array in made.items() if array is not None}
        return evaluate(maker, self.shapes.shapes, values, limit=_LARGEST)

    def only_reader(self, name: str) -> Node | None:
        """The node that alone reads a tensor which is no output of the network."""
        readers = self.graph.consumers.get(name, [])
        alone = len(readers) == 1 and name not in self.graph.output_names
        return readers[0] if alone else None

    def result(self) -> Graph:
        """The new graph, without nodes and weights that nothing reads any more."""
        return pruned(self.graph.with_nodes(self._nodes, self._weights))

    def _fresh(self, stem: str) -> str:
        name, count = stem, 1
        while name in self._taken:
            name, count = f"{stem}_{count}", count + 1
        self._taken.add(name)
        return name


def pruned(graph: Graph) -> Graph:
    """Leave out nodes whose results nothing reads, and weights that no node reads."""
    needed = set(graph.output_names)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs, node.captured)
            kept.append(node)
    weights = {name: tensor for name, tensor in graph.weights.items() if name in needed}
    return graph.with_only(reversed(kept), weights)


def rewrite_nodes(
    graph: Graph, shapes: Shapes, wanted: frozenset[Node], rule: Rule
) -> tuple[Graph, tuple[Node, ...]]:
    """Apply a rule to the wanted nodes; returns the new graph and the nodes that were replaced."""
    edit = Edit(graph, shapes)
    replaced: list[Node] = []
    for node in graph.nodes:
        if node in wanted and rule(edit, node):
            replaced.append(node)
        else:
            edit.keep(node)
    return (edit.result(), tuple(replaced)) if replaced else (graph, ())


def attributes_of(node: Node, *without: str) -> Mapping[str, Any]:
    """A node's attributes without some."""
    return {name: value for name, value in node.attributes.items() if name not in without}
