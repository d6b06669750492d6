"""Which layers of a network run on the DLA, and why the others do not. Needs no hardware.

TensorRT decides layer by layer and sends what does not fit to the GPU without a word; only its builder's own
answer is final. This is the same decision from NVIDIA's published limits (`dla_rules.yaml`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgetrt.model import dla_layers, loadables
from edgetrt.model import shapes as shape_inference
from edgetrt.model.dla_rules import Refusal, Setting, first_refusal, rule_for, rules
from edgetrt.model.flops import count_work
from edgetrt.model.placement import LayerPlacement, Loadable, Placement
from edgetrt.model.targets import (
    Availability,
    availability,
    default_trt,
    find_target,
    parse_version,
)

if TYPE_CHECKING:
    from edgetrt.model.graph import Graph, Node
    from edgetrt.model.shapes import Shapes

_BYTES = {"int8": 1, "fp16": 2, "fp32": 4}
_PASSES_THROUGH = ("Identity", "Dropout")
_SHUFFLES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_MOVES = (*_SHUFFLES, "Transpose", "Cast")


def check(
    graph: Graph,
    target: str,
    trt: str | None = None,
    precision: str = "fp16",
    loadables_free: int | None = None,
) -> Placement:
    """Place a network.

    Args:
        graph: the network.
        target: a key of `boards.yaml`.
        trt: TensorRT's version; None = the newest that has a DLA on the target.
        precision: `fp16`, `int8` or `fp32`; the DLA has no FP32.
        loadables_free: how many loadables the core can still take; None = none is loaded yet.

    Raises:
        ConfigError: unknown target, or not a version.
    """
    board = find_target(target)
    setting = Setting(board, parse_version(trt) if trt else default_trt(board), precision)
    shapes = shape_inference.infer(graph)
    there = availability(board, setting.trt)
    if there.dla and precision == "fp32":
        there = Availability(
            False, "the DLA computes in FP16 and INT8 only", "choose --precision fp16"
        )
    flops = count_work(graph, shapes).by_node
    layers = [
        _place(_Context(graph, shapes, setting, there), node, count)
        for node, count in zip(graph.nodes, flops, strict=True)
    ]
    if there.dla:
        layers = loadables.number(graph, shapes, layers, loadables_free)
    pieces = loadables.sums(graph, shapes, layers, _BYTES[precision])
    verdict, reason = _verdict(layers, pieces, there)
    return Placement(
        target=target,
        trt=".".join(map(str, setting.trt)),
        precision=precision,
        verdict=verdict,
        reason=reason,
        hint=there.hint,
        source=there.source,
        layers=tuple(layers),
        loadables=pieces,
        crossings=loadables.crossings(graph, shapes, layers),
        notes=(*_notes(graph, shapes, pieces), *_pool_notes(pieces)),
    )


@dataclass(frozen=True, slots=True)
class _Context:
    graph: Graph
    shapes: Shapes
    setting: Setting
    there: Availability


def _place(context: _Context, node: Node, flops: int) -> LayerPlacement:
    """Where a node runs, before loadables are counted."""
    plain = LayerPlacement(node.name, node.op, "dla", flops=flops, moves_only=node.op in _MOVES)
    folded = _folded(node, context.graph, context.shapes)
    if folded:
        return replace(plain, device="folded", reason=folded, flops=0)
    plain = replace(plain, weights_bytes=_weights_bytes(context, node))
    if not context.there.dla:
        there = context.there
        return replace(plain, device="gpu", reason=there.reason, source=there.source)
    refusal = _refusal(context, node)
    if refusal is None:
        return plain
    fix = rules().fixes[refusal.fix]
    return replace(
        plain,
        device="gpu",
        reason=refusal.reason,
        fix=fix.text,
        rewrite=fix.rewrite,
        source=refusal.source,
    )


def _refusal(context: _Context, node: Node) -> Refusal | None:
    setting = context.setting
    rule = rule_for(node.op, setting)
    if rule.never:
        return Refusal(rule.never, rule.fix, rules().sources[rule.source])
    general = dla_layers.general(node, context.shapes)
    broken = first_refusal(node.op, rules().general, general, setting, rule.source)
    if broken:
        return broken  # the measures of a kind of layer rely on what holds for every layer
    value_bytes = _BYTES[setting.precision]
    own = dla_layers.specific(node, context.graph, context.shapes, value_bytes)
    return first_refusal(node.op, rule.limits, {**general, **own}, setting, rule.source)


def _weights_bytes(context: _Context, node: Node) -> int:
    shapes = context.shapes
    count = sum(
        math.prod(shapes.shapes.get(name, (0,)))
        for name in node.inputs
        if name in shapes.constant and shapes.dtypes.get(name) != "int64"
    )
    return count * _BYTES[context.setting.precision]


def _folded(node: Node, graph: Graph, shapes: Shapes) -> str:
    """Why nothing of a node is left in an engine; empty when something is."""
    used = [name for name in node.outputs if name in graph.consumers or name in graph.output_names]
    if not used:
        return "nothing reads its result"
    if all(name in shapes.constant for name in used):
        return "computed at build time"
    if node.op in _PASSES_THROUGH and not _training(node, shapes):
        return "passes its input through"
    before, after = shapes.shape(node.input(0)), shapes.shape(node.outputs[0])
    if (
        node.op in _SHUFFLES
        and before is not None
        and before == after
        and min(before, default=1) >= 0
    ):
        return "changes nothing: input and output have the same shape"
    return ""


def _training(node: Node, shapes: Shapes) -> bool:
    """Whether a Dropout drops; the flag is its third input since opset 12."""
    flag = shapes.ints(node.input(2)) if node.input(2) else (0,)
    return node.op == "Dropout" and (flag is None or any(flag))


def _verdict(
    layers: list[LayerPlacement], pieces: tuple[Loadable, ...], there: Availability
) -> tuple[str, str]:
    if not there.dla:
        return "no-dla", there.reason
    on_gpu = [layer for layer in layers if layer.device == "gpu" and not layer.moves_only]
    placed = sum(loadable.layers for loadable in pieces)
    if not placed:
        return "none", "no layer fits the DLA"
    count = f"{len(pieces)} loadable{'s' if len(pieces) != 1 else ''}"
    if not on_gpu:
        return "full", f"all compute layers fit the DLA, in {count}"
    ops = ", ".join(dict.fromkeys(layer.op for layer in on_gpu))
    return (
        "partial",
        f"{placed} layers on the DLA in {count}; {len(on_gpu)} stay on the GPU: {ops}",
    )


def _notes(graph: Graph, shapes: Shapes, pieces: tuple[Loadable, ...]) -> tuple[str, ...]:
    notes = []
    if not shapes.complete:
        notes.append("shape inference refused the model; only the shapes it declares are known")
    heads = [item.value for item in graph.shell.metadata_props if item.key == "head"]
    if heads and pieces:
        notes.append(
            f"the decode of the {len(graph.outputs)} head tensors is not in this network: it stays on "
            "the GPU or CPU, because it joins the candidates of all scales in tensors of three "
            "dimensions, which the DLA lacks"
        )
    return tuple(notes)


def _pool_notes(pieces: tuple[Loadable, ...]) -> tuple[str, ...]:
    """What the memory pools of the DLA say to these loadables."""
    totals, notes = rules().totals, []
    weights = sum(loadable.weights_bytes for loadable in pieces)
    if weights > totals["weights_bytes"].value:
        notes.append(
            f"{weights >> 20} MiB of weights are over the DLA's 512 MiB; TensorRT splits the network"
        )
    for index, loadable in enumerate(pieces):
        if loadable.tensors_bytes > totals["tensors_bytes"].value:
            notes.append(
                f"loadable {index} keeps up to {loadable.tensors_bytes >> 20} MiB of tensors, over the "
                "DLA's 1 GiB; use a smaller input or batch"
            )
    return tuple(notes)
