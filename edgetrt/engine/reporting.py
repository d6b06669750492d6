"""What a finished deployment is told as: from what its steps made to one `Report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from edgetrt.engine.report import Accuracy, Compared, Placed, Report, Tried

if TYPE_CHECKING:
    from edgetrt.engine.accuracy import Verdict
    from edgetrt.engine.bench import Figures
    from edgetrt.engine.placing import BuildOrder, Fitted
    from edgetrt.engine.toolset import Product, Toolset
    from edgetrt.engine.variants import Choice, Variant
    from edgetrt.model.placement import Placement

ENOUGH = 32
"""Frames below which the report asks for more."""


@dataclass(frozen=True)
class Outcome:
    """What the steps of a deployment made."""

    order: BuildOrder
    tools: Toolset
    network: Fitted
    choice: Choice
    product: Product
    verdict: Verdict | None
    figures: Figures | None


def report_of(
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
    order, tools, figures, choice = made.order, made.tools, made.figures, made.choice
    own = figures.warnings if figures else _NOT_RUN
    return Report(
        name=order.name,
        model=str(order.recipe.model.resolve()),
        engine=engine,
        cache="miss",
        backend=tools.backend,
        toolchain=f"{tools.toolchain.flavour} {tools.toolchain.version}",
        device=tools.device.model,
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
        warnings=[*warnings, *made.product.warnings, *own, *_elsewhere(order, tools)],
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
    compared = made.tools.compare(expected, made.product) if made.order.core is not None else None
    return placed(placement, made.order.here, compared)


def _elsewhere(order: BuildOrder, tools: Toolset) -> list[str]:
    """Say plainly that a placement for another board is not what was built."""
    if order.target is None or order.here:
        return []
    return [
        f"the placement is for {order.target}; the engine made here is for this machine "
        f"({tools.device.model}, {tools.backend}) and uses no DLA: deploy on the board to build that one"
    ]


def _advice(made: Outcome, frames: int) -> list[str]:
    """What was taken for granted, and what would make the next deployment better."""
    advice, taken, placement = list(made.order.notes), made.choice.taken, made.network.placement
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
        seconds = max(240.0, made.order.search_s * 2)
        advice.append(
            f"The search for the layers that INT8 hurts was a short one, of {taken.trials} trials: "
            f"--search-s {seconds:g} may leave fewer in floating point."
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
