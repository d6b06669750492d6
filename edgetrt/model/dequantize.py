"""A Q/DQ network back to a float one, with the scales it held.

TensorRT up to 10.7 takes no QuantizeLinear on a DLA: there the scales come from a calibration cache
and the network must be plain (`calibration`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgetrt.errors import ModelError
from edgetrt.model.references import array_of
from edgetrt.model.storage import Spool
from edgetrt.model.wiring import Wiring, captured

_NOT_IN_NAMES = re.compile(r"[,:*\s]")


@dataclass(frozen=True)
class Plain:
    """What is left without Q/DQ.

    Attributes:
        model: the float network; its node names are unique and safe in a list of layer precisions.
        scales: of activations, by tensor of `model`.
        int8_weights: names of the nodes whose weights were quantized.
    """

    model: onnx.ModelProto
    scales: dict[str, float]
    int8_weights: frozenset[str]


def strip(model: onnx.ModelProto, path: Path, spool: Spool) -> Plain:
    """Take the Q/DQ pairs out of a skeleton whose nodes have unique names.

    Args:
        model: the skeleton.
        path: where it came from, for messages.
        spool: takes the dequantized weights.

    Raises:
        ModelError: a zero point or a scale per channel on an activation, or integers between operators.
    """
    return _Stripper(model, path, spool).run()


class _Stripper:
    """One pass; collects what replaces what."""

    def __init__(self, model: onnx.ModelProto, path: Path, spool: Spool) -> None:
        self._model, self._path, self._spool = model, path, spool
        self._wiring = Wiring(model)
        self._source: dict[str, str] = {}
        self._scales: dict[str, float] = {}
        self._weights: list[onnx.TensorProto] = []
        self._from_int8: set[str] = set()
        self._pinned = set(self._wiring.outputs)
        for node in model.graph.node:
            self._pinned.update(captured(node))

    def run(self) -> Plain:
        nodes: list[onnx.NodeProto] = []
        for node in self._model.graph.node:
            if node.op_type == "QuantizeLinear":
                self._refuse_integer_readers(node)
            elif node.op_type == "DequantizeLinear":
                nodes += self._dequantize(node)
            else:
                nodes.append(node)
        return self._assemble(nodes)

    def _refuse_integer_readers(self, node: onnx.NodeProto) -> None:
        readers = self._wiring.consumers.get(node.output[0], [])
        other = [reader.name for reader in readers if reader.op_type != "DequantizeLinear"]
        if other or node.output[0] in self._wiring.outputs:
            raise ModelError(
                f"{self._path}: {other[0] if other else 'an output'} takes the integers of {node.name}, "
                "expected a DequantizeLinear behind each QuantizeLinear",
                "Export the network with Q/DQ pairs around float operators.",
            )

    def _dequantize(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Note what a DequantizeLinear stands for; an Identity remains where its name is needed."""
        out = node.output[0]
        if node.input[0] in self._wiring.constants:
            self._weights.append(self._spool.add(out, self._values(node)))
            if array_of(self._wiring.constants[node.input[0]]).dtype.itemsize == 1:
                self._from_int8.add(out)
            return []
        quantize = self._wiring.producers.get(node.input[0])
        if quantize is None or quantize.op_type != "QuantizeLinear":
            raise ModelError(
                f"{self._path}: {node.name} dequantizes what no QuantizeLinear made",
                "Export the network with Q/DQ pairs around float operators.",
            )
        tensor = self._resolve(quantize.input[0])
        if tensor in self._wiring.constants:
            self._from_int8.add(tensor)
        else:
            scale = self._scale(quantize)
            self._scales[tensor] = max(scale, self._scales.get(tensor, 0.0))
        if out not in self._pinned:
            self._source[out] = tensor
            return []
        if tensor in self._scales:
            self._scales[out] = self._scales[tensor]
        return [onnx.helper.make_node("Identity", [tensor], [out], f"{node.name}_identity")]

    def _scale(self, node: onnx.NodeProto) -> float:
        """The one scale of an activation."""
        scale = self._wiring.constant(node.input[1])
        zero = self._wiring.constant(node.input[2]) if len(node.input) > 2 else None
        if scale is None or scale.size != 1:
            count = "a computed scale" if scale is None else f"{scale.size} scales"
            raise ModelError(
                f"{self._path}: {node.name} quantizes {node.input[0]} with {count}, expected one",
                "Quantize activations per tensor; only weights may have a scale per channel.",
            )
        if zero is not None and (np.asarray(zero, np.int64) != 0).any():
            raise ModelError(
                f"{self._path}: {node.name} quantizes {node.input[0]} with zero point "
                f"{int(zero.reshape(-1)[0])}, expected 0",
                "A calibration cache has scales only: quantize activations symmetric and signed.",
            )
        return float(scale.reshape(-1)[0])

    def _values(self, node: onnx.NodeProto) -> NDArray[np.float32]:
        """Weights in floating point: (q - zero point) * scale, along the operator's axis."""
        stored = array_of(self._wiring.constants[node.input[0]])
        scale = self._wiring.constant(node.input[1])
        zero = self._wiring.constant(node.input[2]) if len(node.input) > 2 else None
        if scale is None:
            raise ModelError(f"{self._path}: the scale of weight {node.input[0]} is computed")
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        shape = [1] * stored.ndim
        if scale.size > 1:
            shape[axis] = scale.size
        values = stored.astype(np.float32)
        if zero is not None:
            values -= zero.astype(np.float32).reshape(shape)
        values *= scale.astype(np.float32).reshape(shape)
        return values

    def _resolve(self, name: str) -> str:
        while name in self._source:
            name = self._source[name]
        return name

    def _assemble(self, nodes: list[onnx.NodeProto]) -> Plain:
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        del model.graph.node[:], model.graph.value_info[:]
        int8 = set()
        for node in nodes:
            copy = model.graph.node.add()
            copy.CopyFrom(node)
            copy.name = _NOT_IN_NAMES.sub("_", node.name)
            copy.input[:] = [self._resolve(name) for name in node.input]
            if any(name in self._from_int8 for name in copy.input):
                int8.add(copy.name)
        used = {name for node in nodes for name in captured(node)} | self._wiring.outputs
        used |= {name for node in model.graph.node for name in node.input}
        weights = [t for t in (*self._model.graph.initializer, *self._weights) if t.name in used]
        del model.graph.initializer[:]
        model.graph.initializer.extend(weights)
        return Plain(model, self._scales, frozenset(int8))
