"""Small stand-ins for large weights, so that onnxruntime's quantizer need not hold them.

The quantizer only looks at the largest magnitude in each channel, and rounds. So it is given a weight
of one value per channel, that largest magnitude; the scales it finds are those of the real weight,
which is then rounded with them in blocks, from file to file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edgetrt.model.references import array_of, is_reference
from edgetrt.model.storage import Spool
from edgetrt.model.wiring import Wiring

_AXES = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
_SUFFIX = "_quantized"
_BLOCK_VALUES = 1 << 20


@dataclass(frozen=True)
class StandIn:
    """A real weight and the axis of its channels."""

    weight: onnx.TensorProto
    axis: int

    def small(self) -> onnx.TensorProto:
        """One value per channel."""
        values = array_of(self.weight)
        others = tuple(axis for axis in range(values.ndim) if axis != self.axis)
        peaks = np.maximum(values.max(others, keepdims=True), -values.min(others, keepdims=True))
        return onnx.numpy_helper.from_array(np.asarray(peaks, np.float32), self.weight.name)

    def rounded(self, scale: NDArray[np.float32], most: int) -> NDArray[np.int8]:
        """The real weight in steps of its channel's scale, -most..most."""
        values = array_of(self.weight)
        out = np.empty(values.shape, np.int8)
        shape = [1] * values.ndim
        shape[self.axis] = -1
        steps = np.broadcast_to(scale.reshape(shape), values.shape)
        block = max(1, _BLOCK_VALUES // max(1, values[0].size))
        for start in range(0, len(values), block):
            part = slice(start, start + block)
            out[part] = np.clip(np.rint(values[part] / steps[part]), -most, most)
        return out


def stand_ins(wiring: Wiring) -> dict[str, StandIn]:
    """The weights that can be stood in for: large, read by weighted operators alone, in one way."""
    out = {}
    for name, tensor in wiring.weights.items():
        readers = wiring.consumers.get(name, [])
        axes = {_axis(node, name, len(tensor.dims)) for node in readers}
        axis = axes.pop() if len(axes) == 1 else None
        if axis is not None and is_reference(tensor) and tensor.data_type == onnx.TensorProto.FLOAT:
            out[name] = StandIn(tensor, axis)
    return out


def _axis(node: onnx.NodeProto, name: str, rank: int) -> int | None:
    """Which axis holds the channels when the quantizer takes this node's weight per channel."""
    if node.op_type not in _AXES or list(node.input).count(name) != 1 or node.input[1] != name:
        return None
    if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute):
        return 0
    if node.op_type == "MatMul" and rank != 2:
        return None
    return _AXES[node.op_type]


def put_back(model: onnx.ModelProto, real: Mapping[str, StandIn], spool: Spool) -> None:
    """Replace what the quantizer made of the stand-ins by what it would have made of the weights."""
    small = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = {
        node.input[0]: node.input[1]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
    }
    for name, stand_in in real.items():
        if name in small:
            small[name].CopyFrom(stand_in.weight)
        stored = f"{name}{_SUFFIX}"
        if stored in small:
            scale = onnx.numpy_helper.to_array(small[scales[stored]])
            most = int(np.abs(onnx.numpy_helper.to_array(small[stored]).astype(np.int16)).max())
            small[stored].CopyFrom(spool.add(stored, stand_in.rounded(scale, most or 127)))
