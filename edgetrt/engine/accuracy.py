"""The accuracy gate: an optimised network against ONNX Runtime FP32, on frames, by the task's measure.

    detect     average precision of its boxes against the reference's boxes
    classify   share of frames with the same best class
    segment    mean intersection over union of the label maps
    raw        cosine of the outputs, the worst of them; with the largest error beside it

The measure is an agreement, 1 for identical answers; the loss is what is missing to 1, and the gate
holds while the loss stays within the recipe's limit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgetrt.engine.measures import average_precision, cosine, max_error, mean_iou, top1_agreement
from edgetrt.errors import AccuracyError, ModelError
from edgetrt.model.reference import Feed, Reference
from edgetrt.types import Detections

if TYPE_CHECKING:
    from edgetrt.ports import Session

Task = Literal["detect", "classify", "segment", "raw"]
Outputs = Mapping[str, NDArray[Any]]
Decode = Callable[[Outputs], Detections]
"""Outputs of one frame to boxes, those of low score included: average precision ranks them."""

DEFAULT_LIMIT = 0.01


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says.

    Attributes:
        passed: the loss is within the limit.
        measure: `ap`, `top1`, `miou` or `cosine`.
        value: the agreement, 0..1.
        limit: largest loss allowed.
        per_class: the agreement by class, or by output for raw.
        detail: more of it, for the report.
    """

    passed: bool
    measure: str
    value: float
    limit: float
    per_class: Mapping[str, float] = field(default_factory=dict)
    detail: Mapping[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """What is missing to full agreement."""
        return 1.0 - self.value

    def require(self, what: str) -> None:
        """Go on only when the gate holds.

        Raises:
            AccuracyError: the loss is over the limit.
        """
        if not self.passed:
            raise AccuracyError(
                f"{what}: {self.measure} {self.value:.4f} against ONNX Runtime FP32, "
                f"expected at least {1 - self.limit:.4f}",
                "Use a higher precision, more varied calibration frames, or a larger accuracy limit.",
            )


@dataclass(frozen=True, slots=True)
class Gate:
    """Judges one task.

    Attributes:
        task: which measure.
        limit: largest loss allowed.
        decode: for `detect`: outputs of one frame to boxes.
        score: for `detect`: from which score a box of the reference counts as an object.
        iou: for `detect`: from which overlap two boxes are the same object.
        labels: class names by index, for the report.
    """

    task: Task
    limit: float = DEFAULT_LIMIT
    decode: Decode | None = None
    score: float = 0.25
    iou: float = 0.5
    labels: Sequence[str] = ()

    def truth(self, reference: Sequence[Outputs]) -> list[Detections]:
        """For `detect`: what counts as an object; decoded once for any number of judgements."""
        if self.task != "detect":
            return []
        return [_above(self._boxes(frame), self.score) for frame in reference]

    def judge(
        self,
        reference: Sequence[Outputs],
        found: Sequence[Outputs],
        truth: Sequence[Detections] | None = None,
    ) -> Verdict:
        """Compare outputs, one entry per frame; `truth` as made from the reference, when at hand.

        Raises:
            ModelError: no frames, other outputs than the reference's, or nothing in the frames to judge by.
        """
        if not reference or len(reference) != len(found):
            raise ModelError(
                f"accuracy: {len(found)} frames to compare with {len(reference)} of the reference",
                "Give frames with --calib.",
            )
        names = set(reference[0])
        if set(found[0]) != names:
            raise ModelError(
                f"accuracy: outputs {sorted(found[0])}, expected {sorted(names)}",
                "Compare with the network that the engine was made from.",
            )
        if any(not np.isfinite(v).all() for frame in found for v in frame.values()):
            return Verdict(False, _MEASURES[self.task], 0.0, self.limit, detail={"finite": 0.0})
        if self.task == "detect":
            return self._detect(self.truth(reference) if truth is None else truth, found)
        judges = {"classify": self._classify, "segment": self._segment, "raw": self._raw}
        return judges[self.task](reference, found)

    def _boxes(self, frame: Outputs) -> Detections:
        if self.decode is None:
            raise ModelError("accuracy: a detector is judged by its boxes, got no decode")
        return self.decode(frame)

    def _verdict(
        self, value: float, per_class: Mapping[str, float], detail: Mapping[str, float]
    ) -> Verdict:
        passed = 1.0 - value <= self.limit
        return Verdict(passed, _MEASURES[self.task], value, self.limit, per_class, detail)

    def _detect(self, truth: Sequence[Detections], found: Sequence[Outputs]) -> Verdict:
        result = average_precision([self._boxes(frame) for frame in found], truth, self.iou)
        if not result.truths:
            raise ModelError(
                f"accuracy: the reference finds nothing of score {self.score} or more "
                f"in {len(truth)} frames",
                "Give frames that show what the network detects, or lower the task's score.",
            )
        detail = {"recall": result.recall, "objects": float(result.truths)}
        return self._verdict(result.ap, self._named(result.by_class), detail)

    def _classify(self, reference: Sequence[Outputs], found: Sequence[Outputs]) -> Verdict:
        a, b = [_only(frame) for frame in reference], [_only(frame) for frame in found]
        worst = min(cosine(x, y) for x, y in zip(a, b))  # noqa: B905 - lengths were compared
        return self._verdict(top1_agreement(a, b), {}, {"cosine": worst})

    def _segment(self, reference: Sequence[Outputs], found: Sequence[Outputs]) -> Verdict:
        a, b = [_labels(_only(f)) for f in reference], [_labels(_only(f)) for f in found]
        value, by_class = mean_iou(a, b)
        return self._verdict(value, self._named(by_class), {})

    def _raw(self, reference: Sequence[Outputs], found: Sequence[Outputs]) -> Verdict:
        pairs = list(zip(reference, found))  # noqa: B905 - lengths were compared
        by_name = {n: min(cosine(a[n], b[n]) for a, b in pairs) for n in reference[0]}
        largest = max(max_error(a[n], b[n]) for a, b in pairs for n in reference[0])
        return self._verdict(min(by_name.values()), by_name, {"max_error": largest})

    def _named(self, by_class: Mapping[int, float]) -> dict[str, float]:
        names = self.labels
        return {names[k] if k < len(names) else str(k): v for k, v in by_class.items()}


_MEASURES = {"detect": "ap", "classify": "top1", "segment": "miou", "raw": "cosine"}


class Scorer:
    """Scores ONNX files against the FP32 network on fixed frames; what the sensitivity search asks.

    Args:
        gate: how to judge.
        reference: the FP32 network; run once, here.
        frames: feeds; read once per score.
        threads: of one inference; 0 leaves the choice to ONNX Runtime.
        simulate: compute Q/DQ as TensorRT does; False for networks that run on this CPU's own kernels.

    Raises:
        ModelError: it cannot be loaded, or there is no frame.
    """

    def __init__(
        self,
        gate: Gate,
        reference: Path,
        frames: Collection[Feed],
        threads: int = 0,
        simulate: bool = True,
    ) -> None:
        self.gate, self._frames = gate, frames
        self._threads, self._simulate = threads, simulate
        self._reference = self._run(reference)
        self._truth = gate.truth(self._reference)

    def __call__(self, model: Path) -> float:
        """The agreement, 0..1."""
        return self.verdict(model).value

    def verdict(self, model: Path) -> Verdict:
        """Run a network over the frames and judge it."""
        return self.judge(self._run(model))

    def judge(self, found: Sequence[Outputs]) -> Verdict:
        """Judge outputs that something else computed on the same frames."""
        return self.gate.judge(self._reference, found, self._truth)

    def _run(self, model: Path) -> list[dict[str, NDArray[Any]]]:
        session = Reference(model, self._threads, simulate=self._simulate)
        return [session(feed) for feed in self._frames]


def answer(session: Session, feed: Feed) -> dict[str, NDArray[Any]]:
    """What a session says to one frame; outputs are copied, because it reuses them."""
    for name, values in feed.items():
        session.buffers[name][...] = values
    return {name: values.copy() for name, values in session.infer().items()}


def _above(frame: Detections, score: float) -> Detections:
    index = np.flatnonzero(frame.scores >= score)
    return Detections(frame.boxes[index], frame.scores[index], frame.classes[index])


def _only(frame: Outputs) -> NDArray[Any]:
    """The first output, which classifiers and segmenters answer with."""
    return next(iter(frame.values()))


def _labels(values: NDArray[Any]) -> NDArray[Any]:
    """Label maps as they are; scores per class (axis 1) to the best class."""
    return values if values.dtype.kind in "iu" else np.argmax(values, axis=1)
