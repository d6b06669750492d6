"""INT8 for TensorRT up to 10.7 on a DLA: a plain network, a calibration cache and layer precisions.

The cache is text, as TensorRT's own calibrators write it and NVIDIA's qdq-translator
(https://github.com/NVIDIA/Deep-Learning-Accelerator-SW/tree/main/tools/qdq-translator):

    TRT-8600-EntropyCalibration2
    images: 3c010204

One tensor a line, its scale (largest magnitude / 127) as the hexadecimal bits of a 32-bit float.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgetrt.errors import ModelError
from edgetrt.model.activations import Activation
from edgetrt.model.dequantize import strip
from edgetrt.model.scales import STEPS, complete, equalized
from edgetrt.model.storage import Spool, read_skeleton, require_opset, write_network
from edgetrt.model.wiring import WEIGHTED, Wiring, with_names

ALGORITHM = "EntropyCalibration2"
_HEADER = re.compile(r"TRT-(?P<version>\d+)-(?P<algorithm>\w+)")
_LINE = re.compile(r"(?P<name>.+): (?P<bits>[0-9a-fA-F]{1,8})")


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a builder needs beside the plain network.

    Attributes:
        scales: by tensor.
        half_layers: nodes that must run in FP16.
        missing: floating-point tensors without a scale; their layers run in FP16.
    """

    scales: Mapping[str, float]
    half_layers: tuple[str, ...]
    missing: tuple[str, ...]

    def cache(self, tensorrt: tuple[int, int, int] = (8, 6, 0)) -> str:
        """The calibration cache."""
        return cache_text(self.scales, tensorrt)

    def layer_precisions(self) -> str:
        """As `trtexec --layerPrecisions` takes them."""
        return ",".join(f"{name}:fp16" for name in self.half_layers)


def translate(
    model: Path,
    out: Path,
    activations: Mapping[str, Activation] | None = None,
    equalize: bool = True,
) -> Calibration:
    """Turn a Q/DQ network into a plain one, written to `out`, and its calibration.

    Args:
        model: a network with Q/DQ pairs, symmetric activations.
        out: where the plain one goes.
        activations: measured ones, for tensors whose scale does not follow from the Q/DQ pairs.
        equalize: give the DLA one scale where it wants one.

    Raises:
        ModelError: not readable, no Q/DQ in it, or not expressible by scales.
    """
    skeleton = with_names(read_skeleton(model))
    require_opset(skeleton, model)
    if not any(node.op_type == "DequantizeLinear" for node in skeleton.graph.node):
        raise ModelError(
            f"{model}: no QuantizeLinear/DequantizeLinear pairs to take scales from",
            "Quantize the network first.",
        )
    with Spool(out.with_name(out.name + ".spool")) as spool:
        plain = strip(skeleton, model, spool)
        write_network(plain.model, out)
    wiring = Wiring(read_skeleton(out))
    scales = complete(wiring, plain.scales)
    half = _half_layers(wiring, scales, plain.int8_weights)
    for name in wiring.activations():
        seen = (activations or {}).get(name)
        if name not in scales and seen is not None and 0 < seen.peak < np.inf:
            scales[name] = seen.peak / STEPS
    if equalize:
        scales = equalized(wiring, scales)
    missing = tuple(name for name in wiring.activations() if name not in scales)
    return Calibration(scales, half, missing)


def _half_layers(
    wiring: Wiring, scales: Mapping[str, float], int8_weights: frozenset[str]
) -> tuple[str, ...]:
    """Layers that were in floating point: without quantized weights, or between unscaled tensors."""
    floats = set(wiring.activations())
    half = []
    for node in wiring.model.graph.node:
        touched = [name for name in (*node.input, *node.output) if name in floats]
        if not touched or node.op_type == "Constant":
            continue
        weighted = node.op_type in WEIGHTED and any(n in wiring.constants for n in node.input)
        whole = all(name in scales for name in node.input if name in floats)
        if (weighted and node.name not in int8_weights) or not whole:
            half.append(node.name)
    return tuple(half)


def cache_text(scales: Mapping[str, float], tensorrt: tuple[int, int, int] = (8, 6, 0)) -> str:
    """A calibration cache for a TensorRT version.

    Raises:
        ModelError: a scale that is not a positive 32-bit float, or a name that breaks the line.
    """
    lines = [f"TRT-{version_number(tensorrt)}-{ALGORITHM}"]
    for name, scale in scales.items():
        bits = struct.pack(">f", scale) if abs(scale) < 3e38 else b""
        if not scale > 0 or not bits or bits == b"\0\0\0\0" or "\n" in name:
            raise ModelError(f"calibration: scale {scale} of tensor {name!r} cannot be written")
        lines.append(f"{name}: {bits.hex()}")
    return "\n".join(lines) + "\n"


def version_number(tensorrt: tuple[int, int, int]) -> int:
    """NV_TENSORRT_VERSION: one digit more for the minor version since TensorRT 10."""
    major, minor, patch = tensorrt
    return major * (10_000 if major >= 10 else 1_000) + minor * 100 + patch


def parse_cache(text: str) -> tuple[int, dict[str, float]]:
    """Read a calibration cache: TensorRT version number and scales.

    Raises:
        ModelError: not a calibration cache.
    """
    first, *rest = text.splitlines() or [""]
    header = _HEADER.fullmatch(first.strip())
    if header is None:
        raise ModelError(
            f"calibration cache: first line is {first[:60]!r}, expected TRT-<version>-{ALGORITHM}",
            "Give the cache that TensorRT's calibrator or edgetrt wrote.",
        )
    scales = {}
    for number, line in enumerate(rest, 2):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise ModelError(
                f"calibration cache: line {number} is {line[:60]!r}, expected `tensor: 3c010204`",
                "The file is damaged: calibrate again.",
            )
        scales[found["name"]] = struct.unpack(">f", bytes.fromhex(found["bits"].zfill(8)))[0]
    return int(header["version"]), scales
