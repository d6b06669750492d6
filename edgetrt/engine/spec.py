"""What is to be built: the frozen order that goes to the build process, and its JSON."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgetrt.errors import EngineBuildError

Precision = Literal["fp32", "fp16", "int8"]
Pool = Literal["dla_managed_sram", "dla_local_dram", "dla_global_dram"]


@dataclass(frozen=True)
class ShapeRange:
    """Smallest, usual and largest shape of one dynamic input."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    @property
    def fixed(self) -> bool:
        """True when only one shape is allowed."""
        return self.min == self.opt == self.max


@dataclass(frozen=True)
class BuildSpec:
    """One engine to build.

    Attributes:
        onnx: the network after rewriting and, when `typed`, with its precision inside.
        precision: what the engine may compute in.
        typed: the network itself carries the precision (casts, Q/DQ). TensorRT from 11 on builds only
            such networks; False asks older ones for their precision flags.
        profiles: optimization profiles, each a range by input name; needed for dynamic inputs only.
        dla: build for the DLA; the number is the core that is used for looking at the result, the
            engine itself runs on any core.
        gpu_layers: layers that must stay on the GPU although the DLA could take them.
        layer_precisions: precision by layer name, for networks that are not `typed`.
        calibration: calibration cache with the scales of an untyped INT8 network.
        workspace_bytes: scratch memory at most; None = from the memory that is free.
        pools: limits of the DLA's memory pools in bytes; missing ones come from the free memory.
        opt_level: builder optimization level 0..5; None = TensorRT's own.
        timing_cache: file with measured kernel times, read and written back.
        strict: no computing layer may fall back to the GPU.
        allow_tf32: let Ampere and later round FP32 inputs of matrix products to 19 bits.
    """

    onnx: Path
    precision: Precision = "fp32"
    typed: bool = False
    profiles: tuple[dict[str, ShapeRange], ...] = ()
    dla: int | None = None
    gpu_layers: tuple[str, ...] = ()
    layer_precisions: dict[str, Precision] = field(default_factory=dict)
    calibration: Path | None = None
    workspace_bytes: int | None = None
    pools: dict[Pool, int] = field(default_factory=dict)
    opt_level: int | None = None
    timing_cache: Path | None = None
    strict: bool = False
    allow_tf32: bool = True

    def with_limits(self, workspace_bytes: int | None, pools: dict[Pool, int]) -> BuildSpec:
        """Fill the memory limits that were left open; what was set stays."""
        workspace = workspace_bytes if self.workspace_bytes is None else self.workspace_bytes
        return replace(self, workspace_bytes=workspace, pools={**pools, **self.pools})


def encode(spec: BuildSpec) -> bytes:
    """JSON of a spec, for the build process and the manifest."""
    return msgspec.json.encode(spec, enc_hook=str)


def decode(data: bytes) -> BuildSpec:
    """Read what `encode` wrote.

    Raises:
        EngineBuildError: not such JSON; parent and build process are of different versions.
    """
    try:
        return msgspec.json.decode(data, type=BuildSpec, dec_hook=_path)
    except msgspec.DecodeError as error:
        raise EngineBuildError(
            f"the build process got an order that it cannot read: {error}",
            "Parent and build process are of different versions: install edgetrt again.",
        ) from error


def _path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)
