"""INT8: QuantizeLinear/DequantizeLinear pairs by onnxruntime's static quantizer.

Calibration is ours (`activations`, `thresholds`): it is done once in bounded memory, and the same
ranges serve every variant that the sensitivity search tries.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgetrt.errors import ModelError
from edgetrt.model.activations import Activation
from edgetrt.model.half import QUANTIZED
from edgetrt.model.references import array_of, is_reference
from edgetrt.model.standins import put_back, stand_ins
from edgetrt.model.storage import (
    Spool,
    read_skeleton,
    require_opset,
    write_network,
)
from edgetrt.model.thresholds import Limits, Method, limits_of
from edgetrt.model.wiring import STANDARD_DOMAINS, WEIGHTED, Wiring, has_body, infer, with_names

PER_CHANNEL_OPSET = 13


@dataclass(frozen=True, slots=True)
class Style:
    """What the backend takes.

    Attributes:
        symmetric: signed activations around 0 without zero point; otherwise unsigned with one.
        float_weights: weights stay FP32 with a Q/DQ pair behind; otherwise they are stored as INT8.
        outputs: also quantize what Conv, Gemm and MatMul put out, as CPU kernels fuse it; TensorRT
            fuses the activation behind instead and wants the pair after that.
        integer_bias: quantize biases to INT32; TensorRT wants them in floating point.
        seven_bit_weights: leave the weights' highest bit unused: x86 CPUs without VNNI add products of
            8 x 8 bits in saturating 16-bit pairs.
    """

    symmetric: bool
    float_weights: bool
    outputs: bool
    integer_bias: bool
    seven_bit_weights: bool = False


TENSORRT = Style(symmetric=True, float_weights=False, outputs=False, integer_bias=False)
TENSORRT_8 = Style(symmetric=True, float_weights=True, outputs=False, integer_bias=False)
CPU = Style(symmetric=False, float_weights=False, outputs=True, integer_bias=True)
CPU_SATURATING = replace(CPU, seven_bit_weights=True)


def cpu_style(machine: str, flags: Collection[str]) -> Style:
    """The style for a CPU backend, from the machine's name and its /proc/cpuinfo flags."""
    vnni = {"avx512_vnni", "avx_vnni", "avx512vnni", "amx_int8"} & set(flags)
    return CPU if vnni or machine not in ("x86_64", "AMD64") else CPU_SATURATING


def is_quantized(model: onnx.ModelProto) -> bool:
    """True for a network that already holds Q/DQ or integer operators, whoever exported it.

    Those are left as they are: PyTorch's and ModelOpt's ranges were learnt or tuned by their makers.
    """
    return any(
        node.op_type in QUANTIZED
        or node.op_type.startswith(("QLinear", "TRT_FP8", "TRT_INT4", "DynamicQuantize"))
        or node.op_type in ("ConvInteger", "MatMulInteger")
        for node in model.graph.node
    )


class Quantizer:
    """A float network with its ranges, ready to be written as INT8 in any mixture.

    Args:
        path: the float network.
        activations: from `activations.measure`.
        style: what the backend takes.
        method: how ranges are chosen; see `thresholds`.

    Raises:
        ModelError: not readable, an opset without per-channel Q/DQ, quantized already, or not measured.
    """

    def __init__(
        self,
        path: Path,
        activations: Mapping[str, Activation],
        style: Style = TENSORRT,
        method: Method = "minmax",
    ) -> None:
        self.path = path
        self.model = with_names(read_skeleton(path))
        opset = require_opset(self.model, path)
        if opset < PER_CHANNEL_OPSET:
            raise ModelError(
                f"{path}: opset {opset}, expected {PER_CHANNEL_OPSET} or newer for INT8 per channel",
                "Export with opset_version=17, or convert with onnx.version_converter.",
            )
        if is_quantized(self.model):
            raise ModelError(
                f"{path}: quantized already", "Use it as it is, or start from the float network."
            )
        if not activations:
            raise ModelError(
                f"{path}: no FP32 tensors were measured, and INT8 is made from their ranges",
                "Give frames with --calib; a network without FP32 tensors has nothing to quantize.",
            )
        self.activations = activations
        self.style = style
        self.wiring = Wiring(self.model)
        self.stand_ins = stand_ins(self.wiring)
        self.limits: Limits = {**_constant_limits(self.wiring), **limits_of(activations, method)}

    def candidates(self) -> list[onnx.NodeProto]:
        """Nodes that onnxruntime can quantize, in the order of the graph."""
        known, floats = _operators(), set(self.wiring.activations())
        return [
            node
            for node in self.model.graph.node
            if node.op_type in known
            and node.domain in STANDARD_DOMAINS
            and not has_body(node)
            and any(name in floats for name in node.input)
        ]

    def write(self, out: Path, keep: Collection[str] = ()) -> None:
        """Write the INT8 network, leaving the nodes named in `keep` in floating point.

        Raises:
            ModelError: onnxruntime's quantizer cannot handle the network.
        """
        nodes = [node.name for node in self.candidates() if node.name not in keep]
        if not nodes:
            write_network(self.model, out)
            return
        model = self._quantized(nodes)
        with Spool(out.with_name(out.name + ".spool")) as spool:
            put_back(model, self.stand_ins, spool)
            write_network(model, out)

    def _quantized(self, nodes: list[str]) -> onnx.ModelProto:
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.quant_utils import QuantizationMode

        asked = inspect.signature(QDQQuantizer.__init__).parameters
        mode = {"mode": QuantizationMode.QLinearOps, "static": True}
        before_1_18 = mode if "static" in asked else {}
        try:
            quantizer = QDQQuantizer(
                model=self._loaded(),
                per_channel=True,
                reduce_range=self.style.seven_bit_weights,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QInt8 if self.style.symmetric else QuantType.QUInt8,
                tensors_range=self._ranges(),
                nodes_to_quantize=nodes,
                nodes_to_exclude=[],
                op_types_to_quantize=sorted(_operators()),
                extra_options=self._options(),
                **before_1_18,
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        except Exception as error:  # it raises ValueError, RuntimeError, KeyError and more
            raise ModelError(
                f"{self.path}: onnxruntime's quantizer failed: {type(error).__name__}: {error}",
                "Simplify the network first, or keep it in FP16.",
            ) from error
        model = quantizer.model.model
        del model.metadata_props[:]
        model.metadata_props.extend(self.model.metadata_props)
        return model

    def _options(self) -> dict[str, Any]:
        return {
            "ActivationSymmetric": self.style.symmetric,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": self.style.float_weights,
            "QuantizeBias": self.style.integer_bias,
            "OpTypesToExcludeOutputQuantization": [] if self.style.outputs else sorted(WEIGHTED),
        }

    def _ranges(self) -> Any:
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData

        data = {
            name: TensorData(lowest=np.float32(low), highest=np.float32(high))
            for name, (low, high) in self.limits.items()
        }
        return TensorsData(CalibrationMethod.MinMax, data)

    def _loaded(self) -> onnx.ModelProto:
        """The network with weights or stand-ins and all shapes, marked as the quantizer expects."""
        model = infer(self.model)
        for tensor in model.graph.initializer:
            if tensor.name in self.stand_ins:
                tensor.CopyFrom(self.stand_ins[tensor.name].small())
            elif is_reference(tensor):
                values = array_of(tensor)
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")
                tensor.raw_data = values.tobytes()
        onnx.helper.set_model_props(
            model,
            {p.key: p.value for p in model.metadata_props} | {"onnx.infer": "onnxruntime.quant"},
        )
        return model


def _constant_limits(wiring: Wiring) -> dict[str, tuple[float, float]]:
    """Ranges of what Constant nodes hold, which the quantizer asks for as for any computed tensor."""
    out = {}
    for name in wiring.constants.keys() - wiring.weights.keys():
        values = wiring.constant(name)
        if values is not None and values.dtype == np.float32 and values.size:
            out[name] = (min(0.0, float(values.min())), max(0.0, float(values.max())))
    return out


def _operators() -> frozenset[str]:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return frozenset(QDQRegistry) | frozenset(QLinearOpsRegistry)
