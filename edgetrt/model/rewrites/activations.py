"""Activations and arithmetic that the DLA lacks, in pieces that it has."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgetrt.model.dla_layers import bound

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetrt.model.graph import Node
    from edgetrt.model.rewrites.edit import Edit

_MAX_EXPONENT = 4


def activations(edit: Edit, node: Node) -> bool:
    """Any of the operators below."""
    rule = _RULES.get(node.op)
    return rule is not None and rule(edit, node)


def _hard_sigmoid(edit: Edit, node: Node) -> bool:
    """Clip(alpha x + beta, 0, 1)."""
    return _ramp(edit, node, node.float("alpha", 0.2), node.float("beta", 0.5), node.outputs) != ""


def _hard_swish(edit: Edit, node: Node) -> bool:
    """X Clip(x / 6 + 1/2, 0, 1)."""
    gate = _ramp(edit, node, 1 / 6, 0.5)
    edit.emit("Mul", (node.input(0), gate), node.name, outputs=node.outputs)
    return True


def _ramp(
    edit: Edit, node: Node, slope: float, offset: float, outputs: tuple[str, ...] = ()
) -> str:
    scaled = edit.emit("Mul", (node.input(0), edit.scalar(node, slope)), node.name)
    moved = edit.emit("Add", (scaled, edit.scalar(node, offset)), node.name)
    limits = (edit.scalar(node, 0.0), edit.scalar(node, 1.0))
    if edit.graph.opset < 11:  # limits were attributes
        return edit.emit("Clip", (moved,), node.name, outputs=outputs, min=0.0, max=1.0)
    return edit.emit("Clip", (moved, *limits), node.name, outputs=outputs)


def _swish(edit: Edit, node: Node) -> bool:
    """X Sigmoid(alpha x)."""
    slope = node.float("alpha", 1.0)
    tensor = node.input(0)
    if slope != 1.0:
        tensor = edit.emit("Mul", (tensor, edit.scalar(node, slope)), node.name)
    gate = edit.emit("Sigmoid", (tensor,), node.name)
    edit.emit("Mul", (node.input(0), gate), node.name, outputs=node.outputs)
    return True


def _mish(edit: Edit, node: Node) -> bool:
    """X tanh(ln(1 + e^x)) = x (1 - q²) / (1 + q²) with q = Sigmoid(-x)."""
    minus, one = edit.scalar(node, -1.0), edit.scalar(node, 1.0)
    negative = edit.emit("Mul", (node.input(0), minus), node.name)
    gate = edit.emit("Sigmoid", (negative,), node.name)
    square = edit.emit("Mul", (gate, gate), node.name)
    below = edit.emit("Add", (square, one), node.name)
    above = edit.emit("Add", (edit.emit("Mul", (square, minus), node.name), one), node.name)
    ratio = edit.emit("Div", (above, below), node.name)
    edit.emit("Mul", (node.input(0), ratio), node.name, outputs=node.outputs)
    return True


def _gelu(edit: Edit, node: Node) -> bool:
    """The tanh form; the erf form has no such pieces."""
    if node.text("approximate", "none") != "tanh":
        return False
    source = node.input(0)
    square = edit.emit("Mul", (source, source), node.name)
    cube = edit.emit("Mul", (square, source), node.name)
    bent = edit.emit("Mul", (cube, edit.scalar(node, 0.044715)), node.name)
    inner = edit.emit("Add", (source, bent), node.name)
    scaled = edit.emit("Mul", (inner, edit.scalar(node, math.sqrt(2 / math.pi))), node.name)
    curve = edit.emit("Tanh", (scaled,), node.name)
    gate = edit.emit("Add", (curve, edit.scalar(node, 1.0)), node.name)
    half = edit.emit("Mul", (source, edit.scalar(node, 0.5)), node.name)
    edit.emit("Mul", (half, gate), node.name, outputs=node.outputs)
    return True


def _negative(edit: Edit, node: Node) -> bool:
    """-1 x."""
    edit.emit("Mul", (node.input(0), edit.scalar(node, -1.0)), node.name, outputs=node.outputs)
    return True


def _divide(edit: Edit, node: Node) -> bool:
    """By a constant: times its reciprocal."""
    values = edit.weight(node.input(1))
    if values is None or values.dtype.kind != "f" or not np.all(values):
        return False
    inverse = edit.constant(node.name, (1.0 / values).astype(values.dtype))
    edit.emit("Mul", (node.input(0), inverse), node.name, outputs=node.outputs)
    return True


def _power(edit: Edit, node: Node) -> bool:
    """A small whole power: a chain of products."""
    values = edit.shapes.floats(node.input(1))
    exponents = set(values or ())
    if len(exponents) != 1 or not (exponent := exponents.pop()).is_integer():
        return False
    if not 2 <= exponent <= _MAX_EXPONENT:
        return False
    tensor = node.input(0)
    for step in range(int(exponent) - 1):
        last = step == int(exponent) - 2
        tensor = edit.emit(
            "Mul", (tensor, node.input(0)), node.name, outputs=node.outputs if last else ()
        )
    return True


def _clip(edit: Edit, node: Node) -> bool:
    """A maximum and a minimum."""
    low = bound(node, edit.shapes, 1, "min", -math.inf)
    high = bound(node, edit.shapes, 2, "max", math.inf)
    if low is None or high is None or low > high or not np.isfinite((low, high)).any():
        return False
    limits = [("Max", low), ("Min", high)]
    steps = [(op, value) for op, value in limits if math.isfinite(value)]
    tensor = node.input(0)
    for index, (op, value) in enumerate(steps):
        outputs = node.outputs if index == len(steps) - 1 else ()
        tensor = edit.emit(op, (tensor, edit.scalar(node, value)), node.name, outputs=outputs)
    return True


_RULES: dict[str, Callable[[Edit, Node], bool]] = {
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Swish": _swish,
    "Mish": _mish,
    "Gelu": _gelu,
    "Neg": _negative,
    "Div": _divide,
    "Pow": _power,
    "Clip": _clip,
}
