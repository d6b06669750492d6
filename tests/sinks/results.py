"""Results for sinks to take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgetrt.types import Detections, Frame, Output, Result


def make_result(
    seq: int = 0,
    size: tuple[int, int] = (64, 48),
    boxes: Sequence[Sequence[float]] = ((10.0, 10.0, 30.0, 40.0),),
    labels: tuple[str, ...] = ("person",),
    output: Output | None = None,
    rate_hz: float | None = None,
) -> Result:
    width, height = size
    frame = Frame(np.full((height, width, 3), 60, np.uint8), "rgb", seq, 5_000 + seq, None, rate_hz)
    count = len(boxes)
    found = Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.5, count, dtype=np.float32),
        np.zeros(count, np.int32),
    )
    return Result("street", frame, output or found, labels, "abc", 12_345_678)
