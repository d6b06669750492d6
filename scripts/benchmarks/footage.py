"""Frames in memory: decoding is the same for everyone, so that it is in nobody's time."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetrt.ports import EndOfStream
from edgetrt.types import Frame

Picture = NDArray[np.uint8]


def cache() -> Path:
    """Where the demo keeps the street video, and we the environment of a peer."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgetrt"


def pictures(video: Path | None, count: int) -> tuple[list[Picture], str]:
    """`count` RGB pictures spread over a video, and what they are of.

    Without a video: the demo's when it is in the cache, else noise that a camera could have made.
    """
    path = video or cache() / "vtest.avi"
    if video is None and not path.exists():
        random = np.random.default_rng(0)
        soft = random.integers(0, 256, (count, 72, 96, 3), dtype=np.uint8)
        return [np.kron(s, np.ones((8, 8, 1), np.uint8)) for s in soft], "synthetic 768x576"
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stride = max(1, (stream.frames or count) // count)
        chosen: list[Picture] = []
        for number, frame in enumerate(container.decode(stream)):
            if number % stride == 0:
                chosen.append(frame.to_ndarray(format="rgb24"))
            if len(chosen) == count:
                break
    return chosen, path.name


class Reel:
    """A source that gives pictures from memory, round and round, `length` times in all."""

    live = False
    reconnects = 0

    def __init__(self, shots: list[Picture], length: int) -> None:
        self._shots = shots
        self._length = length
        self._seq = 0

    def read(self, timeout_s: float) -> Frame:
        """Give the next picture."""
        if self._seq == self._length:
            raise EndOfStream
        frame = shot(self._shots, self._seq)
        self._seq += 1
        return frame

    def close(self) -> None:
        """Nothing to release."""


def shot(shots: list[Picture], seq: int) -> Frame:
    """Picture number `seq`, captured now."""
    return Frame(shots[seq % len(shots)], "rgb", seq, time.monotonic_ns())


class Last:
    """A sink that keeps the last result."""

    def __init__(self) -> None:
        self.result: Any = None

    def put(self, result: Any) -> bool:
        """Keep it."""
        self.result = result
        return True

    def close(self) -> None:
        """Nothing to finish."""
