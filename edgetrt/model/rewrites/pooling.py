"""Pooling windows that the DLA lacks, as chains of windows it has."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgetrt.model.dla_layers import reduces_space
from edgetrt.model.windows import window_pads

if TYPE_CHECKING:
    from edgetrt.model.graph import Node
    from edgetrt.model.rewrites.edit import Edit

_MAX_WINDOW = 8
_MAX_KERNEL, _MAX_STRIDE = 32, 8
_SPATIAL = 2


def pooling_windows(edit: Edit, node: Node) -> bool:
    """A MaxPool or AveragePool with a window over 8."""
    source = edit.shape(node.input(0))
    kernel = node.ints("kernel_shape", ())
    plain = set(node.ints("dilations", (1, 1))) == {1} and not node.int("ceil_mode", 0)
    if source is None or len(kernel) != _SPATIAL or not plain:
        return False
    pads = window_pads(node, source, kernel)
    stride = node.ints("strides", (1, 1))
    if node.op == "MaxPool":
        _max_chain(edit, node, kernel, stride, pads)
        return True
    counted = bool(node.int("count_include_pad", 0)) or not any(pads)
    small = max(kernel) <= _MAX_KERNEL and max(stride) <= _MAX_STRIDE
    if not (counted and small and all(pad < k for pad, k in zip(pads, kernel * 2, strict=True))):
        return False
    _average(edit, node, source[1], (node.input(0), kernel, stride, pads), node.outputs)
    return True


def global_pool(edit: Edit, node: Node) -> bool:
    """A GlobalAveragePool, GlobalMaxPool, or a mean or maximum over height and width."""
    source = edit.shape(node.input(0))
    if source is None or len(source) != 2 + _SPATIAL:
        return False
    if not node.op.startswith("Global") and not reduces_space(node, edit.shapes, len(source)):
        return False
    size = source[2:]
    if node.op in ("GlobalMaxPool", "ReduceMax"):
        _max_chain(edit, node, size, (1, 1), (0, 0, 0, 0))
        return True
    stages, rest = _factors(size)
    if max(rest) > _MAX_KERNEL:
        return False
    tensor = node.input(0)
    last = len(stages) - 1 if rest == (1, 1) else len(stages)
    for index, stage in enumerate(stages):
        outputs = node.outputs if index == last else ()
        tensor = edit.emit(
            "AveragePool", (tensor,), node.name, outputs=outputs, kernel_shape=stage, strides=stage
        )
    if rest != (1, 1):
        _average(edit, node, source[1], (tensor, rest, (1, 1), (0, 0, 0, 0)), node.outputs)
    return bool(stages) or rest != (1, 1)


def _max_chain(
    edit: Edit,
    node: Node,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pads: tuple[int, ...],
) -> None:
    """The maximum over a window is the maximum over overlapping parts of it.

    Windows a and b in a row see a + b - 1 pixels; only the last one strides. Padding is spread over
    the chain, each part below its window, so that every window holds a real pixel.
    """
    count = max(math.ceil((max(kernel) - 1) / (_MAX_WINDOW - 1)), 1)
    windows = [
        tuple((k - 1) // count + (index < (k - 1) % count) + 1 for k in kernel)
        for index in range(count)
    ]
    left = list(pads)
    tensor = node.input(0)
    for index, window in enumerate(windows):
        last = index == count - 1
        part = [min(pad, k - 1) for pad, k in zip(left, window * 2, strict=True)]
        left = [pad - used for pad, used in zip(left, part, strict=True)]
        tensor = edit.emit(
            "MaxPool",
            (tensor,),
            node.name,
            outputs=node.outputs[:1] if last else (),
            kernel_shape=window,
            strides=stride if last else (1,) * len(stride),
            pads=part,
        )


def _factors(size: tuple[int, ...]) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    """Windows of at most 8 whose product is the size, and what is left of it."""
    rows, rest = [], []
    for side in size:
        parts: list[int] = []
        while (part := next((f for f in range(_MAX_WINDOW, 1, -1) if side % f == 0), 1)) > 1:
            parts.append(part)
            side //= part
        rows.append(parts)
        rest.append(side)
    count = max(map(len, rows))
    stages = [tuple(row[i] if i < len(row) else 1 for row in rows) for i in range(count)]
    return stages, tuple(rest)


def _average(
    edit: Edit,
    node: Node,
    channels: int,
    window: tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]],
    outputs: tuple[str, ...],
) -> None:
    """An average as a convolution of each channel by itself with equal weights."""
    tensor, kernel, stride, pads = window
    weights = np.full((channels, 1, *kernel), 1 / math.prod(kernel), edit.dtype(node.input(0)))
    edit.emit(
        "Conv",
        (tensor, edit.constant(node.name, weights)),
        node.name,
        outputs=outputs,
        kernel_shape=kernel,
        strides=stride,
        pads=pads,
        group=channels,
    )
