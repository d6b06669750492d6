"""The networks that one network can become, from INT8 to FP32, and in which order to take them.

Each is judged by the accuracy gate on the user's frames. `auto` takes the lowest precision that the gate
lets through and that is not slower than FP32 on this machine; a precision that was asked for by name is
taken or refused.

The search for the layers that INT8 hurts looks at few frames for a limited time. What it leaves is judged on
all of them, and where that fails more layers are taken out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgetrt.engine.accuracy import Scorer
from edgetrt.errors import AccuracyError, ModelError
from edgetrt.model.activations import measure
from edgetrt.model.full import cast_full, is_half
from edgetrt.model.half import Kept
from edgetrt.model.mixture import KeptFloat
from edgetrt.model.precision import cast_half
from edgetrt.model.quantize import Quantizer, is_quantized
from edgetrt.model.sensitivity import refine, search
from edgetrt.model.storage import read_skeleton

if TYPE_CHECKING:
    from edgetrt.engine.accuracy import Gate, Verdict
    from edgetrt.model.activations import Activation
    from edgetrt.model.frames import Frames
    from edgetrt.model.quantize import Style

Precision = Literal["fp32", "fp16", "int8"]
Asked = Literal["auto", "fp32", "fp16", "int8"]

LADDER: tuple[Precision, ...] = ("int8", "fp16", "fp32")
SLOWER = 1.02
"""How much more time than FP32 still counts as not slower: measurements differ by that much."""
JUDGED = 32
"""Frames that the gate compares at most; all of them calibrate."""
SEARCHED = 12
"""Frames that the search compares at most."""
THOROUGH_S = 120.0
"""From so much time on the search looks at all judged frames at once."""
LEAST_TRIALS = 12
"""Trials that the search gets however long they take."""


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
        trials: mixtures that the search tried.
        cut: a longer search may leave fewer layers in higher precision.
        latency_ms: median of one inference here; None where it was not measured.
    """

    precision: Precision
    path: Path
    verdict: Verdict | None
    bytes: int
    kept: tuple[Kept | KeptFloat, ...] = ()
    changed: int = 0
    everything: float | None = None
    trials: int = 0
    cut: bool = False
    latency_ms: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the gate lets it through."""
        return self.verdict is None or self.verdict.passed


@dataclass(frozen=True)
class Bench:
    """What variants are made from and judged by.

    Attributes:
        model: the network, in FP32 or as its maker stored it.
        reference: what they are compared with: the network before any rewriting.
        folder: where variants are written.
        frames: the user's, preprocessed; None where there are none.
        gate: how the task is judged.
        style: of INT8, as the backend takes it.
        simulate: see `Scorer`.
        search_s: how long a search may take.
        time_ms: median time of one inference of a file; gives None where it cannot run here.
        say: told what is being tried, and how far it is.
    """

    model: Path
    reference: Path
    folder: Path
    frames: Frames | None
    gate: Gate
    style: Style
    simulate: bool
    search_s: float
    time_ms: Callable[[Path], float | None]
    say: Callable[[str, float | None], None]

    @cached_property
    def scorer(self) -> Scorer | None:
        """Judges files on up to `JUDGED` frames."""
        return self._scorer(JUDGED)

    @cached_property
    def stored_half(self) -> bool:
        """Whether the network's maker stored it in FP16."""
        return is_half(read_skeleton(self.model))

    @cached_property
    def full(self) -> Path:
        """The network in FP32: itself, or a copy where it was stored in FP16."""
        if not self.stored_half:
            return self.model
        out = self.folder / "fp32.onnx"
        cast_full(self.model, out)
        return out

    @cached_property
    def activations(self) -> Mapping[str, Activation]:
        """What the network's tensors hold, on all frames; measured once for every precision."""
        if self.frames is None:
            return {}
        self.say(f"measuring the tensors' ranges on {len(self.frames)} frames", None)
        return measure(read_skeleton(self.full), self.frames)

    def searcher(self) -> Scorer | None:
        """Judges files on few frames; None where few are all there are, or time is no matter."""
        enough = self.frames is None or len(self.frames) <= SEARCHED
        return None if enough or self.search_s >= THOROUGH_S else self._scorer(SEARCHED)

    def _scorer(self, most: int) -> Scorer | None:
        if self.frames is None:
            return None
        return Scorer(self.gate, self.reference, self.frames.spread(most), simulate=self.simulate)


@dataclass(frozen=True)
class Choice:
    """A variant to take, and all that were tried, lowest precision first."""

    taken: Variant
    tried: tuple[Variant, ...]
    reason: str


def choices(asked: Asked, bench: Bench) -> Iterator[Choice]:
    """Make variants from the lowest precision up; each that is good enough is offered in turn.

    Whoever builds takes the first, and asks for the next one when the engine itself turns out worse than
    its network. There is no next one for a precision asked for by name.

    Raises:
        AccuracyError: the precision asked for loses more than the limit.
        ModelError: INT8 asked for without frames, or the network cannot be cast.
    """
    if is_quantized(read_skeleton(bench.model)):
        taken = _finish(bench, Variant("int8", bench.model, None, bench.model.stat().st_size))
        yield Choice(taken, (taken,), "the network is quantized already and was left as it is")
    elif asked != "auto":
        yield _named(asked, bench)
    else:
        yield from _ladder(bench)


def _named(asked: Precision, bench: Bench) -> Choice:
    if asked == "int8" and bench.frames is None:
        raise ModelError(
            f"{bench.model}: INT8 needs frames to calibrate with, and there are none",
            "Add --calib FOLDER or --source URI; 100 to 500 varied frames do.",
        )
    variant = _finish(bench, _make(asked, bench))
    if variant.verdict is not None:
        variant.verdict.require(f"{bench.model} in {asked}")
    return Choice(variant, (variant,), f"{asked} was asked for")


def _ladder(bench: Bench) -> Iterator[Choice]:
    """From INT8 up; what cannot be made or is refused becomes a reason."""
    full = _finish(bench, _full(bench))
    tried: list[Variant] = []
    reasons: list[str] = []
    for precision in LADDER[:-1] if bench.frames is not None else ():
        try:
            variant = _finish(bench, _make(precision, bench))
        except ModelError as error:
            reasons.append(f"{precision}: {error.message}")
            continue
        tried.append(variant)
        reasons.append(_judgement(variant, full))
        if variant.passed and _fast_enough(variant, full):
            yield Choice(variant, (*tried, full), "; ".join(reasons))
            reasons.append(f"the {precision} engine lost more than its network")
    told = "; ".join(reasons) or "no frames to judge a lower precision by"
    yield Choice(full, (*tried, full), told)


def _make(precision: Precision, bench: Bench) -> Variant:
    bench.say(f"making the {precision.upper()} network", None)
    return {"int8": _int8, "fp16": _half, "fp32": _full}[precision](bench)


def _full(bench: Bench) -> Variant:
    return Variant("fp32", bench.full, None, bench.full.stat().st_size)


def _half(bench: Bench) -> Variant:
    if bench.stored_half:
        return Variant("fp16", bench.model, None, bench.model.stat().st_size)
    out = bench.folder / "fp16.onnx"
    report = cast_half(bench.model, out, bench.activations)
    return Variant("fp16", out, None, out.stat().st_size, report.kept, report.half_nodes)


def _int8(bench: Bench) -> Variant:
    """The mixture that the search finds, on few frames first.

    Raises:
        AccuracyError: not one layer can be quantized within the limit.
    """
    assert bench.scorer is not None  # noqa: S101 - for the type checker: there are frames
    out = bench.folder / "int8.onnx"
    quantizer = Quantizer(bench.full, bench.activations, bench.style)
    quick = bench.searcher()
    limit = bench.gate.limit
    trials = Trials(bench, quick or bench.scorer)
    mixture = search(quantizer, trials.score, out, limit, over=trials.over)
    verdict = bench.scorer.verdict(out)
    refined = quick is not None and not verdict.passed
    if refined:
        trials = Trials(bench, bench.scorer)
        mixture = refine(quantizer, trials.score, out, limit, mixture, trials.over)
        verdict = bench.scorer.verdict(out)
    if not mixture.quantized:
        raise AccuracyError(
            f"{bench.model}: no layer can be quantized within a loss of {limit:g}: every one costs more",
            "Use --precision fp16, more varied frames, or a larger accuracy limit in the recipe.",
        )
    return Variant(
        "int8",
        out,
        verdict,
        out.stat().st_size,
        mixture.kept,
        mixture.quantized,
        mixture.score_all,
        mixture.trials,
        bool(mixture.kept) and (refined or trials.over()),
    )


class Trials:
    """A scorer that says how far the search is, and when its time is over."""

    def __init__(self, bench: Bench, scorer: Scorer) -> None:
        self._bench, self._scorer = bench, scorer
        self._begun, self._count = time.monotonic(), 0

    def score(self, path: Path) -> float:
        """Score a file."""
        self._count += 1
        spent = self._spent_s() / self._bench.search_s if self._bench.search_s else 1.0
        what = f"looking for the layers that INT8 hurts, trial {self._count}"
        self._bench.say(what, min(1.0, spent))
        return self._scorer(path)

    def over(self) -> bool:
        """The time is up, and not because everything is slow."""
        return self._count >= LEAST_TRIALS and self._spent_s() > self._bench.search_s

    def _spent_s(self) -> float:
        return time.monotonic() - self._begun


def _finish(bench: Bench, variant: Variant) -> Variant:
    """Judge and time a variant."""
    judged = variant.verdict
    if judged is None and bench.scorer is not None and variant.path != bench.model:
        judged = bench.scorer.verdict(variant.path)
    bench.say(f"timing {variant.precision.upper()}", None)
    return replace(variant, verdict=judged, latency_ms=bench.time_ms(variant.path))


def _fast_enough(variant: Variant, full: Variant) -> bool:
    if variant.latency_ms is None or full.latency_ms is None:
        return True
    return variant.latency_ms <= full.latency_ms * SLOWER


def _judgement(variant: Variant, full: Variant) -> str:
    """What was found out about a variant, in words."""
    if not variant.passed and variant.verdict is not None:
        verdict = variant.verdict
        return f"{variant.precision} loses {verdict.loss:.4f} (limit {verdict.limit:g})"
    if not _fast_enough(variant, full):
        return (
            f"{variant.precision} is slower here "
            f"({variant.latency_ms:.2f} against {full.latency_ms:.2f} ms)"
        )
    return f"{variant.precision} passes the gate and is not slower than fp32"
