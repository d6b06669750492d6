"""Scales for the tensors between the quantized ones, as implicit quantization wants them everywhere.

A DLA region is compiled as one piece: a tensor in it without a scale sends its layer to the GPU. What
is told here follows from the arithmetic (a maximum over values cannot pass their range) or from the
DLA's own limits (inputs and output of a pooling or concatenation share one scale).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from edgetrt.model.wiring import MOVES, WEIGHTED, Wiring

STEPS = 127

KEEPS_RANGE = MOVES | {
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize", "Upsample"),
    *("Relu", "LeakyRelu", "Clip", "Abs"),
}
"""Operators whose output cannot pass the magnitude of their first input."""

BOUNDED = {"Sigmoid": 1.0, "HardSigmoid": 1.0, "Softmax": 1.0, "Tanh": 1.0}
"""Operators whose output has a range of its own."""

SHARED = {
    "MaxPool": "all",
    "AveragePool": "all",
    "GlobalAveragePool": "all",
    "Concat": "all",
    "Add": "inputs",
    "Sub": "inputs",
    "Max": "inputs",
    "Min": "inputs",
}
"""Which tensors of an operator need one scale on a DLA."""

ACTIVATIONS = frozenset(("Relu", "LeakyRelu", "Clip", "PRelu", "Sigmoid", "Tanh"))
"""Operators that are fused with the layer before: its output takes theirs."""


def complete(wiring: Wiring, known: Mapping[str, float]) -> dict[str, float]:
    """Add the scales that follow from those that are known; stops when nothing new follows."""
    scales = dict(known)
    nodes = wiring.model.graph.node
    floats = set(wiring.activations())
    before = -1
    while len(scales) != before:
        before = len(scales)
        for node in nodes:
            for name in node.output:
                if name in floats and name not in scales:
                    value = _forward(node, wiring, scales)
                    if value is not None:
                        scales[name] = value
        for node in reversed(nodes):
            _backward(node, wiring, scales, floats)
    return scales


def _of(name: str, wiring: Wiring, scales: Mapping[str, float]) -> float | None:
    """Scale of a tensor; that of a constant covers its values."""
    values = wiring.constant(name)
    if values is not None and values.size and values.dtype.kind == "f":
        return float(np.max(np.abs(values))) / STEPS
    return scales.get(name)


def _forward(node: onnx.NodeProto, wiring: Wiring, scales: Mapping[str, float]) -> float | None:
    if node.op_type in BOUNDED:
        first = scales.get(node.input[0])
        return None if first is None else BOUNDED[node.op_type] / STEPS
    if node.op_type == "Concat":
        told = [_of(name, wiring, scales) for name in node.input]
        return None if None in told else max(value or 0.0 for value in told)
    if node.op_type in KEEPS_RANGE:
        return scales.get(node.input[0])
    if node.op_type == "Mul":
        a, b = (_of(name, wiring, scales) for name in node.input)
        return a * b * STEPS if a and b else None
    return None


def _backward(
    node: onnx.NodeProto, wiring: Wiring, scales: dict[str, float], floats: set[str]
) -> None:
    """Give the only reader's scale to what it reads, where the reader keeps or fuses it."""
    if not node.output or node.output[0] not in scales:
        return
    keeps = node.op_type in MOVES or node.op_type in ("MaxPool", "Resize")
    for index, name in enumerate(node.input):
        maker = wiring.producers.get(name)
        alone = len(wiring.consumers.get(name, [])) == 1 and name not in wiring.outputs
        if name in scales or name not in floats or not alone:
            continue
        fused = (
            node.op_type in ACTIVATIONS
            and maker is not None
            and (maker.op_type in WEIGHTED or maker.op_type in ("Add", "BatchNormalization", "Mul"))
        )
        if (keeps and (index == 0 or node.op_type == "Concat")) or fused:
            scales[name] = scales[node.output[0]]


@dataclass
class _Sets:
    """Disjoint sets of tensors."""

    parent: dict[str, str] = field(default_factory=dict)

    def root(self, name: str) -> str:
        """The one that stands for its set."""
        while self.parent.get(name, name) != name:
            name = self.parent[name]
        return name

    def join(self, a: str, b: str) -> None:
        """Make one set of two."""
        self.parent[self.root(a)] = self.root(b)


def equalized(wiring: Wiring, scales: Mapping[str, float]) -> dict[str, float]:
    """Raise scales so that those which the DLA wants equal are: to the largest of them."""
    sets = _Sets()
    for node in wiring.model.graph.node:
        which = SHARED.get(node.op_type)
        names = [name for name in node.input if name in scales]
        if which == "all":
            names += [name for name in node.output if name in scales]
        for name in names[1:] if which else ():
            sets.join(name, names[0])
    largest: dict[str, float] = {}
    for name, value in scales.items():
        root = sets.root(name)
        largest[root] = max(value, largest.get(root, 0.0))
    return {name: largest[sets.root(name)] for name in scales}
