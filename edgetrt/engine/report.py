"""What a deployment says at the end: one struct, stored beside the engine, shown as table, JSON or page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from edgetrt.engine.accuracy import Verdict
    from edgetrt.engine.bench import Figures
    from edgetrt.engine.fitting import Fitted, Order
    from edgetrt.engine.shop import Product, Shop
    from edgetrt.engine.variants import Choice, Variant
    from edgetrt.model.placement import Placement

NETWORK = "model.onnx"
"""Name of the network in a cache entry: its metadata say how the engine's tensors are read."""

ENOUGH = 32
"""Frames below which the report asks for more."""


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
        cut: the search ran out of time, and layers that it did not resolve stayed as well.
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

    def asked_as(self, name: str, model: Path) -> Report:
        """The same engine, found in the cache for a pipeline and a file of these names."""
        return msgspec.structs.replace(self, name=name, model=str(model.resolve()), cache="hit")


@dataclass(frozen=True)
class Outcome:
    """What the steps of a deployment made."""

    order: Order
    shop: Shop
    network: Fitted
    choice: Choice
    product: Product
    verdict: Verdict | None
    figures: Figures | None


def tell(
    made: Outcome,
    *,
    engine: str,
    frames: int,
    waterfall_ms: dict[str, float],
    build_s: float,
    steps_s: dict[str, float],
    warnings: list[str],
) -> Report:
    """The report of a deployment that has just been made; `frames` were there."""
    order, shop, figures, choice = made.order, made.shop, made.figures, made.choice
    own = figures.warnings if figures else _NOT_RUN
    return Report(
        name=order.name,
        model=str(order.recipe.model.resolve()),
        engine=engine,
        cache="miss",
        backend=shop.backend,
        toolchain=f"{shop.toolchain.flavour} {shop.toolchain.version}",
        device=shop.device.model,
        precision=choice.taken.precision,
        reason=choice.reason,
        tried=[tried(variant, taken=variant is choice.taken) for variant in choice.tried],
        placement=_placement(made),
        rewrites=list(made.network.changes),
        accuracy=accuracy(made.verdict, min(ENOUGH, frames)),
        latency_ms=msgspec.to_builtins(figures.latency_ms) if figures else None,
        throughput_qps=figures.throughput_qps if figures else None,
        waterfall_ms=waterfall_ms,
        bytes=made.product.path.stat().st_size,
        build_s=build_s,
        steps_s=steps_s,
        advice=_advice(made, frames),
        warnings=[*warnings, *made.product.warnings, *own, *_elsewhere(order, shop)],
    )


_NOT_RUN = (
    "the engine was built and not run, because no GPU is here: the accuracy is the network's own, and "
    "there are no times",
)


def _placement(made: Outcome) -> Placed | None:
    placement = made.network.placement
    if placement is None:
        return None
    expected = {p.name: p.device.upper() for p in placement.layers if p.device != "folded"}
    compared = made.shop.compare(expected, made.product) if made.order.core is not None else None
    return placed(placement, made.order.here, compared)


def _elsewhere(order: Order, shop: Shop) -> list[str]:
    """Say plainly that a placement for another board is not what was built."""
    if order.target is None or order.here:
        return []
    return [
        f"the placement is for {order.target}; the engine made here is for this machine "
        f"({shop.device.model}, {shop.backend}) and uses no DLA: deploy on the board to build that one"
    ]


def _advice(made: Outcome, frames: int) -> list[str]:
    """What would make the next deployment better."""
    advice, taken, placement = [], made.choice.taken, made.network.placement
    if not frames:
        advice.append(
            "No frames, so nothing lower than FP32 could be judged: add --calib FOLDER or --source URI."
        )
    elif frames < ENOUGH:
        advice.append(f"Only {frames} frames: 100 to 500 varied ones judge and calibrate better.")
    if taken.everything is not None and taken.kept:
        advice.append(
            f"{len(taken.kept)} layers stay in floating point; with every layer in INT8 the "
            f"agreement would be {taken.everything:.4f}."
        )
    if taken.cut:
        seconds = made.order.search_s
        advice.append(
            f"The search for the layers that INT8 hurts ended after {seconds:g} s and {taken.trials} "
            f"trials, before it knew them all: --search-s {seconds * 4:g} may leave fewer in floating point."
        )
    if placement is not None and placement.hint:
        advice.append(placement.hint)
    return advice


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
        trials=variant.trials,
        cut=variant.cut,
    )


def placed(placement: Placement, here: bool, compared: Compared | None) -> Placed:
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
        here=here,
        compared=compared,
    )
