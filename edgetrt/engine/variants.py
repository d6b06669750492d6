"""The networks that one network can become, from INT8 to FP32, and which of them to take.

Each is judged by the accuracy gate on the user's frames. `auto` takes the lowest precision that the gate
lets through and that is not slower than FP32 on this machine; a precision that was asked for by name is
taken or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgetrt.errors import AccuracyError, ModelError
from edgetrt.model.activations import measure
from edgetrt.model.precision import cast_half
from edgetrt.model.quantize import Quantizer, is_quantized
from edgetrt.model.sensitivity import KeptFloat, search
from edgetrt.model.storage import read_skeleton

if TYPE_CHECKING:
    from edgetrt.engine.accuracy import Scorer, Verdict
    from edgetrt.model.activations import Activation
    from edgetrt.model.frames import Frames
    from edgetrt.model.quantize import Style

Precision = Literal["fp32", "fp16", "int8"]
Asked = Literal["auto", "fp32", "fp16", "int8"]

LADDER: tuple[Precision, ...] = ("int8", "fp16", "fp32")
SLOWER = 1.02
"""How much more time than FP32 still counts as not slower: measurements differ by that much."""


@dataclass(frozen=True)
class Kept:
    """A layer that stayed in higher precision."""

    node: str
    op: str
    reason: str
    loss: float | None = None


@dataclass(frozen=True)
class Variant:
    """One network of the ladder.

    Attributes:
        precision: what most of it computes in.
        path: its ONNX file.
        verdict: of the gate; None for FP32 itself, and where there were no frames.
        bytes: size of the file.
        kept: layers in higher precision, and why.
        changed: number of layers in the lower precision.
        everything: the gate's value had every layer been quantized; None where that was not tried.
        latency_ms: median of one inference here; None where it was not measured.
    """

    precision: Precision
    path: Path
    verdict: Verdict | None
    bytes: int
    kept: tuple[Kept, ...] = ()
    changed: int = 0
    everything: float | None = None
    latency_ms: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the gate lets it through."""
        return self.verdict is None or self.verdict.passed


@dataclass(frozen=True)
class Bench:
    """What variants are made from and judged by.

    Attributes:
        model: the FP32 network.
        folder: where variants are written.
        frames: the user's, preprocessed; None where there are none.
        scorer: judges a file on them; None likewise.
        style: of INT8, as the backend takes it.
        time_ms: median time of one inference of a file; gives None where it cannot run here.
        say: told what is being tried.
    """

    model: Path
    folder: Path
    frames: Frames | None
    scorer: Scorer | None
    style: Style
    time_ms: Callable[[Path], float | None]
    say: Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """The variant to take, and all that were tried, lowest precision first."""

    taken: Variant
    tried: tuple[Variant, ...]
    reason: str


def choose(asked: Asked, bench: Bench) -> Choice:
    """Make variants from the lowest precision up and take the first that is good enough.

    Raises:
        AccuracyError: the precision asked for loses more than the limit.
        ModelError: INT8 asked for without frames, or the network cannot be cast.
    """
    if is_quantized(read_skeleton(bench.model)):
        taken = _finish(bench, Variant("int8", bench.model, None, bench.model.stat().st_size))
        return Choice(taken, (taken,), "the network is quantized already and was left as it is")
    if asked == "int8" and bench.frames is None:
        raise ModelError(
            f"{bench.model}: INT8 needs frames to calibrate with, and there are none",
            "Add --calib FOLDER or --source URI; 100 to 500 varied frames do.",
        )
    if asked != "auto":
        return _named(asked, bench)
    tried: list[Variant] = []
    full = _finish(bench, _full(bench))
    for variant in _ladder(bench):
        tried.append(variant)
        if variant.passed and _fast_enough(variant, full):
            return Choice(variant, (*tried, full), _told(tried, full))
    return Choice(full, (*tried, full), _told(tried, full))


def _named(asked: Precision, bench: Bench) -> Choice:
    variant = _finish(bench, _make(asked, bench))
    if variant.verdict is not None:
        variant.verdict.require(f"{bench.model} in {asked}")
    return Choice(variant, (variant,), f"{asked} was asked for")


def _ladder(bench: Bench) -> Iterator[Variant]:
    """Variants below FP32 that can be made here, lowest precision first."""
    for precision in LADDER[:-1]:
        if bench.frames is None:
            bench.say(f"{precision}: no frames to measure with, left out")
            continue
        try:
            yield _finish(bench, _make(precision, bench))
        except (AccuracyError, ModelError) as error:
            bench.say(f"{precision}: {error.message}")


def _make(precision: Precision, bench: Bench) -> Variant:
    bench.say(f"making the {precision.upper()} network")
    return {"int8": _int8, "fp16": _half, "fp32": _full}[precision](bench)


def _full(bench: Bench) -> Variant:
    return Variant("fp32", bench.model, None, bench.model.stat().st_size)


def _half(bench: Bench) -> Variant:
    out = bench.folder / "fp16.onnx"
    report = cast_half(bench.model, out, _activations(bench, histogram=False))
    kept = tuple(Kept(k.node, k.op, k.reason) for k in report.kept)
    return Variant("fp16", out, None, out.stat().st_size, kept, report.half_nodes)


def _int8(bench: Bench) -> Variant:
    if bench.scorer is None:
        raise ModelError(f"{bench.model}: INT8 without frames cannot be judged", "Add --calib.")
    out = bench.folder / "int8.onnx"
    quantizer = Quantizer(bench.model, _activations(bench, histogram=False), bench.style)
    mixture = search(quantizer, bench.scorer, out, bench.scorer.gate.limit)
    return Variant(
        "int8",
        out,
        None,
        out.stat().st_size,
        tuple(_kept(layer) for layer in mixture.kept),
        mixture.quantized,
        mixture.score_all,
    )


def _kept(layer: KeptFloat) -> Kept:
    return Kept(layer.node, layer.op, layer.reason, layer.loss)


def _activations(bench: Bench, *, histogram: bool) -> Mapping[str, Activation]:
    if bench.frames is None:
        return {}
    return measure(read_skeleton(bench.model), bench.frames, histogram=histogram)


def _finish(bench: Bench, variant: Variant) -> Variant:
    """Judge and time a variant."""
    judged = None
    if bench.scorer is not None and variant.path != bench.model:
        judged = bench.scorer.verdict(variant.path)
    return replace(variant, verdict=judged, latency_ms=bench.time_ms(variant.path))


def _fast_enough(variant: Variant, full: Variant) -> bool:
    if variant.latency_ms is None or full.latency_ms is None:
        return True
    return variant.latency_ms <= full.latency_ms * SLOWER


def _told(tried: list[Variant], full: Variant) -> str:
    """Why the last of `tried`, or FP32, was taken."""
    reasons = []
    for variant in tried:
        if not variant.passed and variant.verdict is not None:
            reasons.append(
                f"{variant.precision} loses {variant.verdict.loss:.4f} "
                f"(limit {variant.verdict.limit:g})"
            )
        elif not _fast_enough(variant, full):
            reasons.append(
                f"{variant.precision} is slower here "
                f"({variant.latency_ms:.2f} against {full.latency_ms:.2f} ms)"
            )
        else:
            reasons.append(f"{variant.precision} passes the gate and is not slower than fp32")
    return "; ".join(reasons) or "no frames to judge a lower precision by"
