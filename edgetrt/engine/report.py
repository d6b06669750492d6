"""What a deployment says at the end: one struct, stored beside the engine, shown as table, JSON or page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from edgetrt.engine.accuracy import Verdict
    from edgetrt.engine.variants import Variant
    from edgetrt.model.placement import Placement


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
        everything: agreement had every layer been quantized.
        kept: layers left in higher precision, each with its reason.
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


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """Where the layers run; see `edgetrt.model.placement.Placement`."""

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


def accuracy(verdict: Verdict | None, frames: int) -> Accuracy | None:
    """The gate's verdict as it is told."""
    if verdict is None:
        return None
    return Accuracy(
        measure=verdict.measure,
        value=round(verdict.value, 5),
        limit=verdict.limit,
        passed=verdict.passed,
        per_class={name: round(value, 5) for name, value in verdict.per_class.items()},
        frames=frames,
    )


def tried(variant: Variant, *, taken: bool) -> Tried:
    """A variant as it is told; FP32 is its own reference."""
    exact = variant.precision == "fp32"
    verdict = variant.verdict
    value = verdict.value if verdict is not None else 1.0 if exact else None
    return Tried(
        precision=variant.precision,
        taken=taken,
        value=None if value is None else round(value, 5),
        loss=None if value is None else round(1 - value, 5),
        latency_ms=None if variant.latency_ms is None else round(variant.latency_ms, 4),
        bytes=variant.bytes,
        layers=variant.changed,
        everything=None if variant.everything is None else round(variant.everything, 5),
        kept=[msgspec.to_builtins(layer) for layer in variant.kept],
    )


def placed(placement: Placement) -> Placed:
    """A placement as it is told."""
    return Placed(
        target=placement.target,
        trt=placement.trt,
        verdict=placement.verdict,
        reason=placement.reason,
        flops_share=round(placement.flops_share, 4),
        conv_flops_share=round(placement.conv_flops_share, 4),
        layers_share=round(placement.layers_share, 4),
        loadables=len(placement.loadables),
        crossings=len(placement.crossings),
        layers=[
            {"name": p.name, "op": p.op, "device": p.device, "reason": p.reason, "fix": p.fix}
            for p in placement.layers
        ],
    )
