"""Cutting a graph into loadables: groups of DLA layers that run without anything else in between.

A group must be convex: no path may leave it and come back, or the group would wait for itself. Layers of
equal label and equal number of label changes above them are convex together; neighbouring groups are then
joined where no other path links them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

Edges = Mapping[int, Sequence[int]]


def groups(
    order: Sequence[int], successors: Edges, labels: Mapping[int, Hashable]
) -> list[list[int]]:
    """Partition the labelled nodes of a directed acyclic graph.

    Args:
        order: all nodes, each after those it depends on.
        successors: by node.
        labels: of the nodes to be grouped (device, batch, ...); only equal labels share a group. A
            node without label is one of its own and not returned.

    Returns:
        Groups in an order in which they can run, each in the order of its nodes.
    """
    depth = _depths(order, successors, labels)
    owner = _components(order, successors, labels, depth)
    _join(order, successors, labels, owner)
    found: dict[int, list[int]] = {}
    for node in order:
        if node in labels:
            found.setdefault(owner[node], []).append(node)
    return list(found.values())


def _depths(
    order: Sequence[int], successors: Edges, labels: Mapping[int, Hashable]
) -> dict[int, int]:
    """Changes of label on the way to a node, at most."""
    depth = dict.fromkeys(order, 0)
    for node in order:
        for after in successors.get(node, ()):
            change = labels.get(node) != labels.get(after)
            depth[after] = max(depth[after], depth[node] + change)
    return depth


def _components(
    order: Sequence[int],
    successors: Edges,
    labels: Mapping[int, Hashable],
    depth: Mapping[int, int],
) -> dict[int, int]:
    """The group of each node: those linked by edges inside one depth and label."""
    parent = {node: node for node in order}

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for node in order:
        for after in successors.get(node, ()):
            same = node in labels and labels[node] == labels.get(after)
            if same and depth[node] == depth[after]:
                parent[root(after)] = root(node)
    return {node: root(node) for node in order}


def _join(
    order: Sequence[int],
    successors: Edges,
    labels: Mapping[int, Hashable],
    owner: dict[int, int],
) -> None:
    """Merge groups joined by an edge while the groups stay free of cycles; changes `owner`."""
    joined = True
    while joined:
        joined = False
        links: dict[int, set[int]] = {}
        for node in order:
            for after in successors.get(node, ()):
                if owner[node] != owner[after]:
                    links.setdefault(owner[node], set()).add(owner[after])
        for first, nexts in links.items():
            for second in sorted(nexts):
                same = first in labels and labels[first] == labels.get(second)
                if same and not _detour(first, second, links):
                    for node in order:
                        if owner[node] == second:
                            owner[node] = first
                    joined = True
                    break
            if joined:
                break


def _detour(first: int, second: int, links: Mapping[int, set[int]]) -> bool:
    """Whether `second` can be reached from `first` other than directly."""
    waiting = [node for node in links[first] if node != second]
    seen = set(waiting)
    while waiting:
        for node in links.get(waiting.pop(), ()):
            if node == second:
                return True
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return False
