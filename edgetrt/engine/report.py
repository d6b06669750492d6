"""What a deployment says at the end: one struct, stored beside the engine, shown as table, JSON or page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

NETWORK = "model.onnx"
"""Name of the network in a cache entry: its metadata say how the engine's tensors are read."""


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """The finished engine against ONNX Runtime FP32, on the user's frames.

    Attributes:
        measure: `ap`, `top1`, `miou` or `cosine`.
        value: agreement, 0..1; the reference itself has 1.
        limit: largest loss allowed.
        passed: the loss is within it.
        per_class: agreement by class, or by output.
        frames: how many were compared.
    """

    measure: str
    value: float
    limit: float
    passed: bool
    per_class: dict[str, float]
    frames: int


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One precision that was tried.

    Attributes:
        precision: what most of it computes in.
        taken: whether it is the one.
        value: agreement with FP32; None where there was nothing to judge by.
        loss: what is missing to 1.
        latency_ms: median of one inference here.
        bytes: of the network's file.
        layers: in this precision.
        everything: agreement had every layer been quantized; None where that was not tried.
        kept: layers left in higher precision, each with its reason.
        trials: mixtures that the search for those layers judged.
        cut: it ran out of time or looked at few frames; a longer one may leave fewer of them.
    """

    precision: str
    taken: bool
    value: float | None
    loss: float | None
    latency_ms: float | None
    bytes: int
    layers: int
    everything: float | None
    kept: list[dict[str, Any]]
    trials: int = 0
    cut: bool = False


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """How well the placement foretold what the builder did.

    Attributes:
        source: who told what the builder did: `inspector`, `log` or `network` (what it meant to do).
        agreed: layers on the device that was foretold, of `compared` that both name.
        differing: `name: foretold, built` for the others.
        missing: layers that the builder fused away or renamed.
    """

    source: str
    agreed: int
    compared: int
    differing: list[str]
    missing: list[str]


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """Where the layers run; see `edgetrt.model.placement.Placement`.

    Attributes:
        here: the engine of this report was built for the target; otherwise the placement alone is for
            it, and the engine is for this machine.
        compared: with the builder's own placement; None where nothing was built for the DLA.
    """

    target: str
    trt: str
    verdict: str
    reason: str
    flops_share: float
    conv_flops_share: float
    layers_share: float
    loadables: int
    crossings: int
    layers: list[dict[str, str]]
    here: bool = True
    compared: Compared | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment.

    Attributes:
        name: of the pipeline.
        model: the network's file.
        engine: fingerprint.
        cache: `hit` or `miss`.
        backend, toolchain: what runs it, and its version.
        device: what it was made on.
        precision: that was taken, and `reason` why.
        tried: every precision that was looked at.
        placement: with --dla.
        rewrites: what was changed in the network, in words.
        accuracy: of the finished engine; None without frames.
        latency_ms, throughput_qps: of the engine by itself.
        waterfall_ms: median of each stage of a frame; empty without a source.
        bytes: of the engine.
        build_s: how long everything up to the cache took.
        steps_s: by step.
        advice: what would help, in words.
        warnings: what makes something above doubtful, in words.
    """

    name: str
    model: str
    engine: str
    cache: str
    backend: str
    toolchain: str
    device: str
    precision: str
    reason: str
    tried: list[Tried]
    placement: Placed | None
    rewrites: list[str]
    accuracy: Accuracy | None
    latency_ms: dict[str, float] | None
    throughput_qps: float | None
    waterfall_ms: dict[str, float]
    bytes: int
    build_s: float
    steps_s: dict[str, float]
    advice: list[str]
    warnings: list[str]

    @property
    def runs_here(self) -> bool:
        """Whether it ran on this machine; an engine for a GPU can be built without one."""
        return self.latency_ms is not None

    def asked_as(self, name: str, model: Path) -> Report:
        """The same engine, found in the cache for a pipeline and a file of these names."""
        return msgspec.structs.replace(self, name=name, model=str(model.resolve()), cache="hit")
