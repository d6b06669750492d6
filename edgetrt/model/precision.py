"""The FP16 cast: precision written into the network itself, as strongly typed builders want it.

Weights and activations become FP16 wherever `half.choose_half` allows; casts stand only where the two
precisions meet, one per tensor and direction. Weights go from file to file, so that memory does not
grow with the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from edgetrt.model.activations import Activation
from edgetrt.model.half import LOOKS, HalfOptions, Kept, Slots, choose_half
from edgetrt.model.references import array_of
from edgetrt.model.storage import (
    Spool,
    bytes_of_weights,
    read_skeleton,
    require_opset,
    write_network,
)
from edgetrt.model.wiring import Wiring, captured, with_names

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


@dataclass(frozen=True, slots=True)
class HalfReport:
    """What the FP16 cast did.

    Attributes:
        kept: nodes that compute in FP32, with the reason.
        half_nodes: number of nodes that compute in FP16.
        casts: number of casts inserted.
        bytes_before: size of the weights.
        bytes_after: the same in the new network.
        measured: False when no activations were given: ranges are then unknown, not good.
    """

    kept: tuple[Kept, ...]
    half_nodes: int
    casts: int
    bytes_before: int
    bytes_after: int
    measured: bool


def cast_half(
    model: Path,
    out: Path,
    ranges: Mapping[str, Activation],
    options: HalfOptions | None = None,
    keep_io: bool = True,
) -> HalfReport:
    """Write the FP16 version of a network.

    Args:
        model: the FP32 network.
        out: where the new one goes; its folder must exist.
        ranges: from `activations.measure`, on frames of the real source.
        options: limits.
        keep_io: leave the network's inputs and outputs FP32; otherwise they become FP16 where they can.

    Raises:
        ModelError: not readable, or an opset that is too old or too new.
    """
    skeleton = with_names(read_skeleton(model))
    require_opset(skeleton, model)
    wiring = Wiring(skeleton)
    half, kept = choose_half(wiring, ranges, options or HalfOptions())
    with Spool(out.with_name(out.name + ".spool")) as spool:
        caster = _Caster(wiring, half, keep_io, spool)
        caster.run()
        write_network(caster.model, out)
        after = bytes_of_weights(caster.model)
    return HalfReport(
        kept=tuple(kept),
        half_nodes=len(half),
        casts=caster.casts,
        bytes_before=bytes_of_weights(skeleton),
        bytes_after=after,
        measured=bool(ranges),
    )


class _Caster:
    """One pass over a graph; `model` is the result.

    Every FP32 tensor has a native form, that of the node which makes it, and the other form is made by
    a cast right behind, if anyone reads it. The FP32 form keeps the tensor's name, so that bodies of
    control flow still find it; only an input or output of the network keeps its name in its own type.
    """

    def __init__(
        self, wiring: Wiring, half: Mapping[str, Slots], keep_io: bool, spool: Spool
    ) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(wiring.model)
        self.casts = 0
        self._wiring, self._half, self._spool = wiring, half, spool
        self._floats = wiring.floats()
        self._native_half = self._natives(keep_io)
        self._half_io = self._typed_io(keep_io)
        self._half_readers, self._float_readers = self._readers()

    def run(self) -> None:
        """Rewrite the copy in `model`."""
        graph = self.model.graph
        nodes = []
        for value in graph.input:
            if value.name in self._half_io:
                value.type.tensor_type.elem_type = HALF
            nodes += self._casts_of(value.name)
        for node in graph.node:
            outputs = list(node.output)
            if node.op_type == "Constant" and node.output[0] in self._wiring.constants:
                nodes += self._constants(node)
                continue
            self._retype(node)
            nodes.append(node)
            for name in outputs:
                nodes += self._casts_of(name)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
        self._retype_values()
        self._retype_weights()

    def _natives(self, keep_io: bool) -> set[str]:
        """Tensors that are made in FP16."""
        graph = self._wiring.model.graph
        out = {
            n.output[i]
            for n in graph.node
            if n.name in self._half
            for i in self._half[n.name].outputs
        }
        if not keep_io:
            inputs = {v.name for v in graph.input} - self._wiring.weights.keys()
            out |= inputs & self._floats
        return out

    def _typed_io(self, keep_io: bool) -> set[str]:
        """Inputs and outputs of the network whose own type becomes FP16."""
        if keep_io:
            return set()
        graph = self._wiring.model.graph
        return {v.name for v in (*graph.input, *graph.output)} & self._native_half

    def _readers(self) -> tuple[set[str], set[str]]:
        """Tensors that someone reads in FP16, and in FP32."""
        half, full = set(), set()
        for node in self._wiring.model.graph.node:
            slots = self._half.get(node.name)
            for index, name in enumerate(node.input):
                if slots is not None and index in slots.inputs:
                    half.add(name)
                elif not self._takes_any(node, name):
                    full.add(name)
            full.update(captured(node))
        full.update(v.name for v in self._wiring.model.graph.output if v.name not in self._half_io)
        return half & self._floats, full & self._floats

    def _takes_any(self, node: onnx.NodeProto, name: str) -> bool:
        """A node that reads the native form, whichever it is."""
        return node.op_type in LOOKS and name in self._native_half

    def _half_name(self, name: str) -> str:
        return name if name in self._half_io else f"{name}_fp16"

    def _float_name(self, name: str) -> str:
        return f"{name}_fp32" if name in self._half_io else name

    def _retype(self, node: onnx.NodeProto) -> None:
        """Let a node read and write the right forms."""
        slots = self._half.get(node.name)
        for index, name in enumerate(node.input):
            if name not in self._floats:
                continue
            takes_half = slots is not None and index in slots.inputs
            half = takes_half or self._takes_any(node, name)
            node.input[index] = self._half_name(name) if half else self._float_name(name)
        if slots is None:
            return
        for index in slots.outputs:
            node.output[index] = self._half_name(node.output[index])
        if node.op_type == "Cast":
            next(a for a in node.attribute if a.name == "to").i = HALF

    def _casts_of(self, name: str) -> list[onnx.NodeProto]:
        """The cast behind a tensor's producer, when its other form is read."""
        if name not in self._floats:
            return []
        half, full = self._half_name(name), self._float_name(name)
        if name in self._native_half and name in self._float_readers:
            source, target, kind = half, full, FLOAT
        elif name not in self._native_half and name in self._half_readers:
            source, target, kind = full, half, HALF
        else:
            return []
        self.casts += 1
        return [onnx.helper.make_node("Cast", [source], [target], f"{target}_cast", to=kind)]

    def _constants(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """A constant in the forms that are read."""
        name = node.output[0]
        if name not in self._half_readers:
            return [node]
        half = onnx.NodeProto()
        half.CopyFrom(node)
        half.name, half.output[0] = f"{node.name}_fp16", self._half_name(name)
        value = next(a.t for a in half.attribute if a.name == "value")
        values = array_of(value).astype(np.float16)
        value.CopyFrom(onnx.numpy_helper.from_array(values, value.name))
        return [node, half] if name in self._float_readers else [half]

    def _retype_weights(self) -> None:
        weights = []
        for tensor in self.model.graph.initializer:
            wanted = tensor.name in self._half_readers and tensor.name in self._wiring.weights
            if wanted:
                values = array_of(tensor).astype(np.float16)
                weights.append(self._spool.add(self._half_name(tensor.name), values))
            if not wanted or tensor.name in self._float_readers:
                weights.append(tensor)
        copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in weights]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(copies)

    def _retype_values(self) -> None:
        """Types told in the graph follow the tensors."""
        for value in self.model.graph.output:
            if value.name in self._half_io:
                value.type.tensor_type.elem_type = HALF
        for value in self.model.graph.value_info:
            if value.name in self._native_half:
                value.type.tensor_type.elem_type = HALF
                value.name = self._half_name(value.name)
