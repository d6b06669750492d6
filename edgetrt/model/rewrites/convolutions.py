"""Rearrangements of pixels and channels as convolutions with ones and zeros.

Padding and batch normalization move into the convolution next to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgetrt.model.rewrites.edit import attributes_of
from edgetrt.model.windows import window_pads

if TYPE_CHECKING:
    from edgetrt.model.graph import Node
    from edgetrt.model.rewrites.edit import Edit

_MAX_STRIDE, _MAX_KERNEL = 8, 32
_SHUFFLE = ("Reshape", "Transpose", "Reshape")
_NOT_NEGATIVE = ("Relu", "Sigmoid", "Softmax")


def depth_space(edit: Edit, node: Node) -> bool:
    """DepthToSpace, SpaceToDepth, or a slice with steps over pixels."""
    source = edit.shape(node.input(0))
    if source is None or len(source) != 4:
        return False
    if node.op == "Slice":
        return _strided_slice(edit, node, source[1])
    block = node.int("blocksize", 1)
    if not 2 <= block <= _MAX_STRIDE:
        return False
    if node.op == "DepthToSpace":
        return _depth_to_space(edit, node, source[1], block)
    return _space_to_depth(edit, node, source[1], block)


def _depth_to_space(edit: Edit, node: Node, channels: int, block: int) -> bool:
    """A deconvolution whose kernel and stride are the block."""
    outputs = channels // block**2
    weights = np.zeros((channels, outputs, block, block), edit.dtype(node.input(0)))
    column_major = node.text("mode", "DCR") == "CRD"
    for row in range(block):
        for column in range(block):
            for output in range(outputs):
                place = row * block + column
                source = output * block**2 + place if column_major else place * outputs + output
                weights[source, output, row, column] = 1
    inputs = (node.input(0), edit.constant(node.name, weights))
    size = (block, block)
    edit.emit(
        "ConvTranspose", inputs, node.name, outputs=node.outputs, kernel_shape=size, strides=size
    )
    return True


def _space_to_depth(edit: Edit, node: Node, channels: int, block: int) -> bool:
    """A convolution whose kernel and stride are the block."""
    weights = np.zeros((channels * block**2, channels, block, block), edit.dtype(node.input(0)))
    for row in range(block):
        for column in range(block):
            for channel in range(channels):
                output = (row * block + column) * channels + channel
                weights[output, channel, row, column] = 1
    inputs = (node.input(0), edit.constant(node.name, weights))
    size = (block, block)
    edit.emit("Conv", inputs, node.name, outputs=node.outputs, kernel_shape=size, strides=size)
    return True


def _strided_slice(edit: Edit, node: Node, channels: int) -> bool:
    """Every n-th pixel from a start on, to the end: a convolution of each channel by itself."""
    starts, axes = edit.shapes.ints(node.input(1)), edit.shapes.ints(node.input(3))
    steps = edit.shapes.ints(node.input(4))
    source, result = edit.shape(node.input(0)), edit.shape(node.outputs[0])
    if starts is None or steps is None or source is None or result is None:
        return False
    kernel, stride = [1, 1], [1, 1]
    for start, axis, step in zip(starts, axes or range(len(starts)), steps, strict=False):
        axis %= 4
        size = source[axis]
        start = min(start + size if start < 0 else start, size)
        to_end = step > 0 and result[axis] == -(-(size - start) // step)
        if axis < 2 or not to_end or not 1 <= step <= _MAX_STRIDE or start >= _MAX_KERNEL:
            return False
        kernel[axis - 2], stride[axis - 2] = start + 1, step
    weights = np.zeros((channels, 1, *kernel), edit.dtype(node.input(0)))
    weights[:, :, -1, -1] = 1
    edit.emit(
        "Conv",
        (node.input(0), edit.constant(node.name, weights)),
        node.name,
        outputs=node.outputs,
        kernel_shape=kernel,
        strides=stride,
        group=channels,
    )
    return True


def channel_shuffle(edit: Edit, node: Node) -> bool:
    """Reshape, Transpose, Reshape that only reorder channels: a 1×1 convolution with one 1 per row.

    The detour over five dimensions is what keeps ShuffleNets off the DLA.
    """
    swap = edit.graph.producers.get(node.input(0))
    split = edit.graph.producers.get(swap.input(0)) if swap is not None else None
    if swap is None or split is None or (node.op, swap.op, split.op) != _SHUFFLE:
        return False
    source, groups = edit.shape(split.input(0)), edit.shape(split.outputs[0])
    whole = source is not None and source == edit.shape(node.outputs[0]) and len(source) == 4
    if source is None or not whole or swap.ints("perm", ()) != (0, 2, 1, 3, 4):
        return False
    if groups is None or groups[:1] + groups[3:] != source[:1] + source[2:]:
        return False
    order = np.arange(source[1]).reshape(groups[1:3]).T.reshape(-1)
    weights = np.eye(source[1], dtype=edit.dtype(split.input(0)))[order]
    inputs = (split.input(0), edit.constant(node.name, weights[:, :, None, None]))
    edit.emit("Conv", inputs, node.name, outputs=node.outputs, kernel_shape=(1, 1))
    return True


def gather_to_conv(edit: Edit, node: Node) -> bool:
    """Channels picked by a constant list: a 1×1 convolution with one 1 per row."""
    source, indices = edit.shape(node.input(0)), edit.weight(node.input(1))
    if node.op != "Gather" or source is None or len(source) != 4 or indices is None:
        return False
    if node.int("axis", 0) % 4 != 1 or indices.ndim != 1:
        return False
    weights = np.zeros((len(indices), source[1], 1, 1), edit.dtype(node.input(0)))
    for row, index in enumerate(indices.tolist()):
        weights[row, index, 0, 0] = 1
    inputs = (node.input(0), edit.constant(node.name, weights))
    edit.emit("Conv", inputs, node.name, outputs=node.outputs, kernel_shape=(1, 1))
    return True


def deconv_padding(edit: Edit, node: Node) -> bool:
    """A deconvolution's padding only cuts its border off: do so afterwards."""
    pads, result = node.ints("pads", (0, 0, 0, 0)), edit.shape(node.outputs[0])
    plain = node.text("auto_pad", "NOTSET") == "NOTSET" and "output_shape" not in node.attributes
    if len(pads) != 4 or not any(pads) or result is None or not plain or edit.graph.opset < 10:
        return False
    if any(node.ints("output_padding", ())):
        return False
    whole = edit.emit(
        "ConvTranspose", node.inputs, node.name, **attributes_of(node, "pads", "auto_pad")
    )
    starts = np.asarray(pads[:2], np.int64)
    ends = starts + np.asarray(result[2:], np.int64)
    limits = (starts, ends, np.asarray((2, 3), np.int64))
    names = [edit.constant(node.name, values) for values in limits]
    edit.emit("Slice", (whole, *names), node.name, outputs=node.outputs)
    return True


def fold_pad(edit: Edit, node: Node) -> bool:
    """Zeros around the picture: the convolution or pooling that alone reads it pads by itself."""
    if node.op == "Pad":
        reader = edit.only_reader(node.outputs[0])
        # The pad is left out here, and its reader, which comes later, takes it over.
        return reader is not None and _joint_pads(edit, reader, node) is not None
    pad = edit.graph.producers.get(node.input(0))
    if pad is None or edit.only_reader(pad.outputs[0]) is not node:
        return False
    pads = _joint_pads(edit, node, pad)
    if pads is None:
        return False
    attributes = {**attributes_of(node, "auto_pad"), "pads": pads}
    if node.op == "AveragePool":
        attributes["count_include_pad"] = 1
    inputs = (pad.input(0), *node.inputs[1:])
    edit.emit(node.op, inputs, node.name, outputs=node.outputs, **attributes)
    return True


def _joint_pads(edit: Edit, reader: Node, pad: Node) -> tuple[int, ...] | None:
    """Padding of `reader` that does the work of `pad` as well; None where that is not the same."""
    outer, source = constant_pads(edit, pad), edit.shape(pad.outputs[0])
    if pad.op != "Pad" or reader.input(0) != pad.outputs[0] or outer is None or source is None:
        return None
    kernel = reader.ints("kernel_shape", (edit.shape(reader.input(1)) or ())[2:])
    if len(kernel) != 2 or reader.op not in ("Conv", "MaxPool", "AveragePool"):
        return None
    own = window_pads(reader, source, kernel)
    joint = tuple(a + b for a, b in zip(own, outer, strict=True))
    if reader.int("ceil_mode", 0) or any(p >= k for p, k in zip(joint, kernel * 2, strict=True)):
        return None  # the DLA takes no padding as wide as the window
    if reader.op == "Conv":
        return joint
    if reader.op == "AveragePool":
        return None if any(own) else joint
    maker = edit.graph.producers.get(pad.input(0))
    # A maximum pads with minus infinity: the same only where nothing is below zero.
    return joint if maker is not None and maker.op in _NOT_NEGATIVE else None


def constant_pads(edit: Edit, node: Node) -> tuple[int, ...] | None:
    """Zeros added to height and width (begins, then ends); None for any other padding."""
    pads = node.ints("pads", ()) or edit.shapes.ints(node.input(1)) or ()
    value = edit.shapes.floats(node.input(2)) if node.input(2) else (node.float("value", 0.0),)
    zeros = node.text("mode", "constant") == "constant" and value is not None and not any(value)
    if not zeros or len(pads) != 8 or node.input(3) or min(pads) < 0 or any(pads[:2] + pads[4:6]):
        return None
    return (*pads[2:4], *pads[6:8])


def fold_batchnorm(edit: Edit, node: Node) -> bool:
    """A batch normalization that alone reads a convolution: into the convolution's weights."""
    if node.op == "Conv":
        after = edit.only_reader(node.outputs[0])
        return after is not None and _normalized(edit, node, after) is not None
    conv = edit.graph.producers.get(node.input(0))
    if conv is None or conv.op != "Conv" or edit.only_reader(conv.outputs[0]) is not node:
        return False
    folded = _normalized(edit, conv, node)
    if folded is None:
        return False
    names = [edit.constant(node.name, values) for values in folded]
    inputs = (conv.input(0), *names)
    edit.emit("Conv", inputs, conv.name, outputs=node.outputs[:1], **conv.attributes)
    return True


def _normalized(
    edit: Edit, conv: Node, norm: Node
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.generic]], ...] | None:
    """Weights and bias of the convolution with the normalization inside."""
    plain = norm.op == "BatchNormalization" and not norm.int("training_mode", 0)
    if not plain or len([name for name in norm.outputs if name]) != 1:
        return None
    weights = edit.weight(conv.input(1))
    values = [edit.weight(name) for name in norm.inputs[1:5]]
    bias = edit.weight(conv.input(2)) if conv.input(2) else 0.0
    if weights is None or bias is None or len(values) != 4 or any(v is None for v in values):
        return None
    scale, shift, mean, variance = (np.asarray(value, np.float64) for value in values)
    factor = scale / np.sqrt(variance + norm.float("epsilon", 1e-5))
    shape = (-1,) + (1,) * (weights.ndim - 1)
    return (
        (weights * factor.reshape(shape)).astype(weights.dtype),
        ((bias - mean) * factor + shift).astype(weights.dtype),
    )
