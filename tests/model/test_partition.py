"""Loadables are convex, of one label, and as few as that allows on small graphs."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from edgetrt.model.partition import groups

Edges = dict[int, list[int]]


def test_a_chain_without_the_gpu_is_one_group() -> None:
    assert groups(range(3), {0: [1], 1: [2]}, {0: "dla", 1: "dla", 2: "dla"}) == [[0, 1, 2]]


def test_a_gpu_layer_between_cuts() -> None:
    assert groups(range(3), {0: [1], 1: [2]}, {0: "dla", 2: "dla"}) == [[0], [2]]


def test_a_shortcut_around_a_gpu_layer_does_not_join() -> None:
    """0 -> 1(gpu) -> 2 and 0 -> 2: together, 0 and 2 would wait for themselves."""
    assert groups(range(3), {0: [1, 2], 1: [2]}, {0: "dla", 2: "dla"}) == [[0], [2]]


def test_a_gpu_branch_that_nothing_comes_back_from_does_not_cut() -> None:
    edges = {0: [1, 2], 2: [3]}
    assert groups(range(4), edges, {0: "dla", 2: "dla", 3: "dla"}) == [[0, 2, 3]]


def test_a_late_gpu_input_joins_with_what_does_not_feed_it() -> None:
    """0(gpu) -> 2 and 1 -> 2: 1 can wait for 0, so 1 and 2 are one."""
    assert groups(range(3), {0: [2], 1: [2]}, {1: "dla", 2: "dla"}) == [[1, 2]]


def test_other_batches_are_other_groups() -> None:
    assert groups(range(2), {0: [1]}, {0: 1, 1: 2}) == [[0], [1]]


@st.composite
def dags(draw: st.DrawFn) -> tuple[int, Edges, dict[int, int]]:
    count = draw(st.integers(1, 9))
    pairs = list(itertools.combinations(range(count), 2))
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    edges: Edges = {}
    for source, reader in chosen:
        edges.setdefault(source, []).append(reader)
    labels = draw(st.dictionaries(st.integers(0, count - 1), st.integers(0, 1)))
    return count, edges, labels


@given(dags())
def test_groups_are_of_one_label_and_can_be_ordered(dag: tuple[int, Edges, dict[int, int]]) -> None:
    count, edges, labels = dag
    found = groups(range(count), edges, labels)

    assert sorted(itertools.chain(*found)) == sorted(labels)
    owner = {node: ("alone", node) for node in range(count)}
    for index, group in enumerate(found):
        assert len({labels[node] for node in group}) == 1
        owner.update(dict.fromkeys(group, ("group", index)))
    links: dict[tuple[str, int], set[tuple[str, int]]] = {}
    for source, readers in edges.items():
        links.setdefault(owner[source], set()).update(
            owner[reader] for reader in readers if owner[reader] != owner[source]
        )
    assert _acyclic(links)


def _acyclic(links: dict[tuple[str, int], set[tuple[str, int]]]) -> bool:
    """Kahn's algorithm on the groups."""
    waits = {after: 0 for nexts in links.values() for after in nexts} | dict.fromkeys(links, 0)
    for nexts in links.values():
        for after in nexts:
            waits[after] += 1
    ready = [name for name, count in waits.items() if not count]
    done = 0
    while ready:
        done += 1
        for after in links.get(ready.pop(), ()):
            waits[after] -= 1
            if not waits[after]:
                ready.append(after)
    return done == len(waits)
