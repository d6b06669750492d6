"""From layers with a device to loadables and crossings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgetrt.model import dla_layers, partition
from edgetrt.model.dla_rules import rules
from edgetrt.model.placement import LayerPlacement, Loadable

if TYPE_CHECKING:
    from edgetrt.model.graph import Graph
    from edgetrt.model.shapes import Shapes

Layers = Sequence[LayerPlacement]


def number(
    graph: Graph, shapes: Shapes, layers: Layers, free: int | None = None
) -> list[LayerPlacement]:
    """Give every DLA layer its loadable; what is over the room of the core goes to the GPU.

    Layers of one loadable have the same batch.
    """
    limit = rules().totals["loadables_per_core"]
    room = limit.value if free is None else free
    labels = {
        index: dla_layers.general(node, shapes)["batch"]
        for index, node in enumerate(graph.nodes)
        if layers[index].device == "dla"
    }
    placed = list(layers)
    groups = partition.groups(range(len(placed)), _successors(graph, shapes, layers), labels)
    for which, group in enumerate(groups):
        for index in group:
            if which < room:
                placed[index] = replace(placed[index], loadable=which)
                continue
            placed[index] = replace(
                placed[index],
                device="gpu",
                reason=f"the core has room for {room} loadables, this would be one more",
                fix="lift the fallbacks that cut the network into so many pieces",
                source=rules().sources[limit.source],
            )
    return placed


def crossings(graph: Graph, shapes: Shapes, layers: Layers) -> tuple[str, ...]:
    """Tensors that one device makes and the other reads."""
    found: dict[str, None] = {}
    for name, source, reader in _links(graph, shapes, layers):
        if layers[source].device != layers[reader].device:
            found[name] = None
    return tuple(found)


def sums(graph: Graph, shapes: Shapes, layers: Layers, value_bytes: int) -> tuple[Loadable, ...]:
    """What each loadable holds, in an order in which they can run."""
    members: dict[int, list[int]] = {}
    for index, layer in enumerate(layers):
        if layer.loadable is not None:
            members.setdefault(layer.loadable, []).append(index)
    return tuple(
        Loadable(
            first=layers[group[0]].name,
            last=layers[group[-1]].name,
            layers=len(group),
            weights_bytes=sum(layers[index].weights_bytes for index in group),
            tensors_bytes=_inside(graph, shapes, group) * value_bytes,
        )
        for _, group in sorted(members.items())
    )


def _inside(graph: Graph, shapes: Shapes, group: Sequence[int]) -> int:
    """Elements of the tensors that do not leave a group."""
    inside = {graph.nodes[index] for index in group}
    return sum(
        math.prod(shapes.shapes.get(name, ()))
        for index in group
        for name in graph.nodes[index].outputs
        if name not in graph.output_names and inside.issuperset(graph.consumers.get(name, ()))
    )


def _successors(graph: Graph, shapes: Shapes, layers: Layers) -> Mapping[int, Sequence[int]]:
    edges: dict[int, list[int]] = {}
    for _, source, reader in _links(graph, shapes, layers):
        edges.setdefault(source, []).append(reader)
    return edges


def _links(graph: Graph, shapes: Shapes, layers: Layers) -> list[tuple[str, int, int]]:
    """Tensor, maker and reader of every edge between layers that are left in the engine."""
    maker: dict[str, tuple[str, int]] = {}
    links: list[tuple[str, int, int]] = []
    for index, node in enumerate(graph.nodes):
        if layers[index].device == "folded":
            if node.input(0) in maker and node.outputs[0] not in shapes.constant:
                maker[node.outputs[0]] = maker[node.input(0)]
            continue
        for name in dict.fromkeys((*node.inputs, *node.captured)):
            if name in maker:
                links.append((*maker[name], index))
        maker.update({name: (name, index) for name in node.outputs if name})
    return links
