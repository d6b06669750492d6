"""The name of an engine: a digest of all that it depends on.

Two engines with the same fingerprint are interchangeable on this device. The DLA core is not in it:
a plan for one core runs on the other.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgetrt.model import onnx_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgetrt.engine.spec import BuildSpec
    from edgetrt.types import DeviceIdentity

SCHEMA = 1
"""Raised when the builder makes other engines from the same inputs."""


@dataclass(frozen=True)
class Toolchain:
    """The library that makes the engine.

    Attributes:
        flavour: `tensorrt`, `tensorrt_rtx`, `onnxruntime` or `openvino`.
        version: its full version.
        cuda: version of the CUDA runtime it uses; None where it uses none or it is not known.
    """

    flavour: str
    version: str
    cuda: str | None = None


@dataclass(frozen=True)
class Fingerprint:
    """The canonical inputs and their digest."""

    fields: Mapping[str, Any]
    digest: str

    def __str__(self) -> str:
        return self.digest

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """`key: theirs, here ours` for each field in which another engine differs."""
        keys = sorted({*self.fields, *other})
        return [
            f"{key}: {other.get(key)!r}, here {self.fields.get(key)!r}"
            for key in keys
            if self.fields.get(key) != other.get(key)
        ]


def fingerprint(
    network: str,
    spec: BuildSpec,
    toolchain: Toolchain,
    device: DeviceIdentity,
    calibration: str | None = None,
) -> Fingerprint:
    """Name an engine. Pure: digests of files come from the caller.

    Args:
        network: digest of the ONNX file and its external data.
        spec: how to build; paths in it do not count, their contents do.
        toolchain: what builds it.
        device: what it is built on.
        calibration: digest of the calibration cache, if one is used.
    """
    options = asdict(spec)
    for path in ("onnx", "calibration", "timing_cache"):
        options.pop(path)
    options["dla"] = spec.dla is not None
    options["gpu_layers"] = sorted(spec.gpu_layers)
    fields = {
        "schema": SCHEMA,
        "network": network,
        "calibration": calibration,
        **{f"spec.{key}": value for key, value in options.items()},
        **{f"toolchain.{key}": value for key, value in asdict(toolchain).items()},
        "device.part_number": device.part_number,
        "device.soc": device.soc,
        "device.compute_capability": device.compute_capability,
    }
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    plain = json.loads(canonical)
    return Fingerprint(plain, hashlib.sha256(canonical.encode("ascii")).hexdigest())


def digest_network(path: Path) -> str:
    """SHA-256 over an ONNX file and the external data files that it names.

    Raises:
        ModelError: a file is missing, not ONNX, or named outside the model's folder.
    """
    return onnx_file.digest(path, onnx_file.external_files(onnx_file.load(path), path))
