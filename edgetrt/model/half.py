"""Which nodes of a network can compute in FP16, and which must not: decisions only, nothing is changed.

An operator's own schema says which of its tensors may be 16-bit; measured activations and the weights
say which of them would leave FP16's range (65504 up, 2**-14 down to full precision).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from edgetrt.model.activations import Activation
from edgetrt.model.wiring import MOVES, STANDARD_DOMAINS, WEIGHTED, Wiring, has_body

LARGEST = 65504.0
SMALLEST_NORMAL = 2.0**-14

LOOKS = frozenset(["Shape", "Size", "Cast", "IsNaN", "IsInf", "ArgMax", "ArgMin", "NonZero"])
"""Operators that read a tensor of any type and make something else: they take it as it comes."""

ONE_TYPE = frozenset(("BatchNormalization", "RMSNormalization", "Attention"))
"""Operators whose schema lets their inputs differ in type, and whose implementations do not."""

QUANTIZED = frozenset(("QuantizeLinear", "DequantizeLinear"))


@dataclass(frozen=True, slots=True)
class HalfOptions:
    """Limits of the FP16 cast.

    Attributes:
        margin: share of FP16's range that measured values may fill; the frames are only a sample.
        decode_step: coarsest rounding step allowed in the arithmetic after the last weighted operator,
            where values are pixels: FP16 steps by 1/8 from 128 up and by 1/2 from 512 up.
        keep: names of nodes that stay FP32 in any case.
    """

    margin: float = 0.5
    decode_step: float = 0.1
    keep: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """A node that stays in higher precision, and why."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True, slots=True)
class Slots:
    """Inputs and outputs of a node, by index, that become FP16 when the node does."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def choose_half(
    wiring: Wiring, ranges: Mapping[str, Activation], options: HalfOptions
) -> tuple[dict[str, Slots], list[Kept]]:
    """Decide for every node.

    Args:
        wiring: of a skeleton whose nodes have unique names.
        ranges: measured activations by tensor; a tensor that is not in it is judged by type alone.
        options: limits.

    Returns:
        The nodes that compute in FP16 by name with their slots, and those that could be told why not.
        Nodes that only move FP32 values are in neither.
    """
    judge = _Judge(wiring, ranges, options)
    half: dict[str, Slots] = {}
    kept: list[Kept] = []
    made_half: set[str] = set()
    for node in wiring.model.graph.node:
        if node.op_type == "Constant" or not judge.touches_floats(node):
            continue
        slots = judge.slots(node)
        reason = judge.reason(node, slots)
        if reason or slots is None:
            kept.append(Kept(node.name, node.op_type, reason or "no FP16 form"))
        elif not _follows_float(node, slots, wiring, made_half):
            half[node.name] = slots
            made_half.update(node.output[i] for i in slots.outputs)
    for island in _islands(wiring, half):
        for node in island:
            del half[node.name]
        reason = f"alone among FP32 nodes ({len(island)} without trained weights): casts cost more"
        kept += [Kept(node.name, node.op_type, reason) for node in island]
    return half, [k for k in kept if k.op not in LOOKS]


def _islands(wiring: Wiring, half: Mapping[str, Slots]) -> list[list[onnx.NodeProto]]:
    """Connected FP16 nodes without a weighted operator among them, in a network that has one."""
    nodes = [node for node in wiring.model.graph.node if node.name in half]
    if not any(node.op_type in WEIGHTED for node in nodes):
        return []
    island_of: dict[str, dict[str, onnx.NodeProto]] = {}
    for node in nodes:
        merged = {node.name: node}
        for name in (node.input[i] for i in half[node.name].inputs):
            maker = wiring.producers.get(name)
            if maker is not None:
                merged.update(island_of.get(maker.name, {}))
        island_of.update(dict.fromkeys(merged, merged))
    islands = {id(island): list(island.values()) for island in island_of.values()}
    return [i for i in islands.values() if not any(node.op_type in WEIGHTED for node in i)]


def _follows_float(
    node: onnx.NodeProto, slots: Slots, wiring: Wiring, made_half: Collection[str]
) -> bool:
    """True for a node that moves values which are all FP32: a cast would gain nothing there."""
    if node.op_type not in MOVES:
        return False
    moved = [node.input[i] for i in slots.inputs if node.input[i] not in wiring.constants]
    return bool(moved) and not any(name in made_half for name in moved)


class _Judge:
    """The rules, with what they look up at hand."""

    def __init__(
        self, wiring: Wiring, ranges: Mapping[str, Activation], options: HalfOptions
    ) -> None:
        self._wiring, self._ranges, self._options = wiring, ranges, options
        self._floats = wiring.floats()
        self._before = wiring.before_weights()
        self._opset = next(
            e.version for e in wiring.model.opset_import if e.domain in STANDARD_DOMAINS
        )

    def touches_floats(self, node: onnx.NodeProto) -> bool:
        """Anything to decide at all?"""
        return has_body(node) or any(n in self._floats for n in (*node.input, *node.output))

    def slots(self, node: onnx.NodeProto) -> Slots | None:
        """The FP16 slots that the operator's schema allows; None when it has no FP16 output."""
        if node.domain not in STANDARD_DOMAINS or has_body(node):
            return None
        if node.op_type == "Cast":
            to = next(a.i for a in node.attribute if a.name == "to")
            return Slots((), (0,)) if to == onnx.TensorProto.FLOAT else None
        schema = onnx.defs.get_schema(node.op_type, self._opset, "")
        allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}

        def variable(formals: list[onnx.defs.OpSchema.FormalParameter], index: int) -> str:
            kind = formals[min(index, len(formals) - 1)].type_str
            return str(kind) if "tensor(float16)" in allowed.get(kind, ()) else ""

        outputs = [
            (i, variable(schema.outputs, i))
            for i, name in enumerate(node.output)
            if name in self._floats
        ]
        tied = {kind for _, kind in outputs if kind}
        if node.op_type in ONE_TYPE:
            tied |= {variable(schema.inputs, i) for i in range(len(node.input))} - {""}
        inputs = [
            i
            for i, name in enumerate(node.input)
            if name in self._floats and variable(schema.inputs, i) in tied
        ]
        if not inputs or not tied:
            return None
        return Slots(tuple(inputs), tuple(i for i, kind in outputs if kind))

    def reason(self, node: onnx.NodeProto, slots: Slots | None) -> str:
        """Why the node must stay FP32; empty when it need not."""
        if node.name in self._options.keep:
            return "asked for"
        if has_body(node):
            return "control flow: its body stays FP32"
        if node.op_type in QUANTIZED:
            return "already quantized"
        if slots is None:
            return f"{node.op_type} has no FP16 form in opset {self._opset}"
        names = [node.input[i] for i in slots.inputs] + [node.output[i] for i in slots.outputs]
        for name in names:
            if why := self._weight(name) if name in self._wiring.constants else self._range(name):
                return why
        return self._decode(node, names)

    def _range(self, name: str) -> str:
        seen = self._ranges.get(name)
        if seen is None:
            return ""
        if not seen.finite:
            return f"{name} is not finite in FP32 already"
        if seen.peak > LARGEST * self._options.margin:
            return f"{name} reaches {seen.peak:.6g}: FP16 ends at {LARGEST:.0f}"
        if 0 < seen.peak < SMALLEST_NORMAL:
            return f"{name} never passes {seen.peak:.3g}: FP16 loses digits below {SMALLEST_NORMAL:.2g}"
        return ""

    def _weight(self, name: str) -> str:
        values = self._wiring.constant(name)
        if values is None or values.size == 0:
            return ""
        peak = max(abs(float(values.max())), abs(float(values.min())))
        if not peak <= LARGEST:
            return f"weight {name} reaches {peak:.6g}: FP16 ends at {LARGEST:.0f}"
        if 0 < peak < SMALLEST_NORMAL:
            return f"weight {name} never passes {peak:.3g}: FP16 loses digits below that"
        return ""

    def _decode(self, node: onnx.NodeProto, names: list[str]) -> str:
        """Arithmetic in pixels after the last weighted operator."""
        if node.op_type in WEIGHTED or any(name in self._before for name in node.output):
            return ""
        seen = [self._ranges[name].peak for name in names if name in self._ranges]
        peak = max(seen, default=0.0)
        step = float(np.spacing(np.float16(min(peak, LARGEST))))
        if step <= self._options.decode_step:
            return ""
        return f"decode with values up to {peak:.0f}: FP16 steps by {step:g} there"
