"""A shadow run: another network looks at the frames of a running pipeline, and its answers are compared.

It runs in the thread of who asks: the pipeline hands over a finished result when somebody waits for one, and
knows nothing more of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgetrt.engine.measures import cosine, iou_matrix
from edgetrt.types import Detections, RawOutput

if TYPE_CHECKING:
    from edgetrt.runtime.network import Network, Task
    from edgetrt.types import Output, Result

SAME_IOU = 0.5
"""Overlap from which two boxes of a class are the same object."""

WITHIN_S = 120.0
"""How long the shadow runs of one look take together, however few frames came: who asks for the look waits
240 s for everything, loading included (`asking.LOOK_S`)."""

_PATIENCE_S = 5.0


@dataclass(frozen=True)
class Agreement:
    """How far two networks agreed.

    Attributes:
        value: 0..1; None = there was nothing to compare, such as frames without any object.
        frames: that both looked at.
    """

    value: float | None
    frames: int


class Trials:
    """The shadow runs of one look, one after the other: they share one time.

    What a run does not need of its share, those behind it have.

    Args:
        frames: to compare in each; 0 = none is wanted.
        runs: how many there will be at most.
        within_s: for all of them.
        monotonic_s: time.
    """

    def __init__(
        self,
        frames: int,
        runs: int,
        within_s: float,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.frames, self._waiting, self._left_s = frames, runs, within_s
        self._monotonic_s = monotonic_s

    def begin(self) -> None:
        """The next one's turn; what it does not run, others have."""
        self._waiting -= 1

    def run(self, compare: Callable[[int, float], Agreement]) -> Agreement:
        """Let one have its share: `compare` gets the frames and the seconds."""
        begun_s = self._monotonic_s()
        try:
            return compare(self.frames, self._left_s / (1 + max(0, self._waiting)))
        finally:
            self._left_s = max(0.0, self._left_s - (self._monotonic_s() - begun_s))


def shadow(
    network: Network,
    task: Task,
    following: Callable[[float], Result | None],
    frames: int,
    within_s: float,
) -> Agreement:
    """Let a network look at live frames that another one has answered.

    Detections agree in the share of boxes, of both, that have a partner of the same label at `SAME_IOU`;
    other outputs in their cosine, the worst of each frame, averaged.

    Args:
        network: the other one; its first lane is used.
        task: decodes its output.
        following: waits so many seconds for the pipeline's next result.
        frames: to compare.
        within_s: ends it earlier.

    Raises:
        InferenceError: the other network does not answer.
    """
    partners, boxes, cosines, seen = 0, 0, [], 0
    deadline = time.monotonic() + within_s
    lane = network.lanes[0]
    while seen < frames and (left_s := deadline - time.monotonic()) > 0:
        result = following(min(_PATIENCE_S, left_s))
        if result is None:
            continue
        placed = lane.preprocessor.write(result.frame)
        output = task.decode(lane.session.infer(), placed, result.frame.size)
        seen += 1
        if isinstance(output, Detections) and isinstance(result.output, Detections):
            partners += 2 * _partners(output, network.labels, result.output, result.labels)
            boxes += len(output) + len(result.output)
        else:
            cosines.append(_alike(output, result.output))
    if cosines:
        return Agreement(float(np.mean(cosines)), seen)
    return Agreement(partners / boxes if boxes else None, seen)


def _partners(
    a: Detections, labels_a: tuple[str, ...], b: Detections, labels_b: tuple[str, ...]
) -> int:
    """How many boxes of `a` have a partner in `b`, each box one at most, the best score first."""
    overlaps = iou_matrix(a.boxes, b.boxes)
    names_a, names_b = _names(a, labels_a), _names(b, labels_b)
    free, found = np.ones(len(b), bool), 0
    for row, name in zip(overlaps, names_a, strict=True):
        fits = free & (names_b == name) & (row >= SAME_IOU)
        if fits.any():
            free[int(np.argmax(np.where(fits, row, -1.0)))] = False
            found += 1
    return found


def _names(found: Detections, labels: tuple[str, ...]) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    names = [labels[k] if k < len(labels) else str(k) for k in found.classes]
    return np.array(names, dtype=np.str_)


def _alike(a: Output, b: Output) -> float:
    """The worst cosine of the outputs that both have; 0 when they answer different things."""
    if not isinstance(a, RawOutput) or not isinstance(b, RawOutput):
        return 0.0
    shared = [name for name in a.tensors if name in b.tensors]
    same = [n for n in shared if a.tensors[n].shape == b.tensors[n].shape]
    if not same or len(same) < len(a.tensors):
        return 0.0
    return min(cosine(a.tensors[name], b.tensors[name]) for name in same)
