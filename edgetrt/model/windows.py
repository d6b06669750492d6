"""Windows that slide over a picture: their padding, and the room they need in the DLA.

The convolution buffer has 16 banks of 32 KiB, shared by one kernel's weights and the rows of the
input that it covers:
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/dla-layer-restrictions.html
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgetrt.model.graph import Node
    from edgetrt.model.shapes import Shapes
    from edgetrt.types import Shape

_BANK_BYTES = 32768
_WEIGHT_ALIGN_BYTES = 128
_ATOM_BYTES = 32
_ENTRY_ATOMS = 4
_BANK_ENTRIES = 256


def buffer_banks(
    channels: int, kernel: tuple[int, ...], dilation: int, width: int, bytes_per_value: int
) -> int:
    """Banks of the convolution buffer that a convolution needs.

    Args:
        channels: input channels that one kernel sees.
        kernel: height and width.
        dilation: of the height.
        width: of the input, in pixels.
        bytes_per_value: 1 for INT8, 2 for FP16.
    """
    kernel_bytes = channels * kernel[0] * kernel[1] * bytes_per_value
    aligned = math.ceil(kernel_bytes / _WEIGHT_ALIGN_BYTES) * _WEIGHT_ALIGN_BYTES
    weight_banks = math.ceil(aligned / _BANK_BYTES)
    entries = math.ceil(math.ceil(channels * bytes_per_value / _ATOM_BYTES) * width / _ENTRY_ATOMS)
    data_banks = math.ceil(entries * ((kernel[0] - 1) * dilation + 1) / _BANK_ENTRIES)
    return weight_banks + data_banks


def window_pads(node: Node, source: Shape, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Padding of a convolution or pooling window: begins, then ends, with `auto_pad` resolved."""
    count = len(kernel)
    auto = node.text("auto_pad", "NOTSET")
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        return node.ints("pads", (0,) * 2 * count) if auto == "NOTSET" else (0,) * 2 * count
    stride = node.ints("strides", (1,) * count)
    dilation = node.ints("dilations", (1,) * count)
    begins, ends = [], []
    for size, k, s, d in zip(source[2:], kernel, stride, dilation, strict=False):
        total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small = total // 2
        begins.append(small if auto == "SAME_UPPER" else total - small)
        ends.append(total - small if auto == "SAME_UPPER" else small)
    return (*begins, *ends)


def window(node: Node, shapes: Shapes, kernel: tuple[int, ...]) -> dict[str, Any]:
    """Kernel, stride, dilation and padding of a node."""
    source = shapes.shape(node.input(0)) or ()
    count = len(kernel)
    pads = window_pads(node, source, kernel)
    return {
        "kernel": kernel,
        "stride": node.ints("strides", (1,) * count),
        "dilation": node.ints("dilations", (1,) * count),
        "padding": pads,
        "padding_below_kernel": all(
            pad < max(k, 1) for pad, k in zip(pads, (*kernel, *kernel), strict=False)
        ),
    }
