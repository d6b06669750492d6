"""Counts and times of one pipeline: written by its thread, read by any."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgetrt.ports import Clock
from edgetrt.types import Counters, PipelineHealth, StageStats

WINDOW = 512
"""Results over which rates and percentiles are taken."""

STAGES = ("read", "preprocess", "infer", "postprocess", "publish")
"""The stages of a frame, in its order."""


class Window:
    """The last `WINDOW` numbers."""

    def __init__(self) -> None:
        self._values = np.zeros(WINDOW)
        self._count = 0

    def add(self, value: float) -> None:
        """Put a number in, over the oldest one."""
        self._values[self._count % WINDOW] = value
        self._count += 1

    def values(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Copy of the numbers, in no particular order."""
        return np.array(self._values[: min(self._count, WINDOW)])

    def stats_ms(self) -> StageStats | None:
        """Percentiles of nanoseconds, in milliseconds; None when there are none."""
        values = self.values()
        if not len(values):
            return None
        p50, p99 = np.percentile(values, (50, 99))
        return StageStats(
            round(float(p50) / 1e6, 4),
            round(float(p99) / 1e6, 4),
            round(float(values.mean()) / 1e6, 4),
        )


class Stopwatch:
    """The stages of one frame as they happen, in nanoseconds by name."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.stages_ns: dict[str, int] = {}

    def stage(self, name: str) -> Stage:
        """Time a stage: what is done in its `with`."""
        return Stage(self, name)


class Stage:
    """One stage of a frame; a generator in its place costs a pipeline of small frames a tenth of its time."""

    __slots__ = ("_name", "_start_ns", "_watch")

    def __init__(self, watch: Stopwatch, name: str) -> None:
        self._watch, self._name = watch, name

    def __enter__(self) -> None:
        self._start_ns = self._watch.clock.monotonic_ns()

    def __exit__(self, *_: object) -> None:
        self._watch.stages_ns[self._name] = self._watch.clock.monotonic_ns() - self._start_ns


class Meter:
    """What a pipeline has done since it started; outlives restarts of its source and session."""

    def __init__(self, pipeline: str, clock: Clock) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(Counters.__slots__, 0)
        self._stages = {name: Window() for name in STAGES}
        self._latency, self._finished, self._objects = Window(), Window(), Window()
        self._objects_total = 0
        self._counted = 0
        self.state = "starting"
        self.backend = ""
        self.engine = ""
        self.error = ""
        self._settings: Mapping[str, Any] = {}
        self._generation, self._unsettled = 0, ""

    @property
    def counters(self) -> Counters:
        """Counts so far."""
        with self._lock:
            return Counters(**self._counts)

    @property
    def dropped(self) -> int:
        """Frames dropped so far."""
        return self._counts["dropped"]

    def count(self, **more: int) -> None:
        """Add to counters by name."""
        with self._lock:
            for name, number in more.items():
                self._counts[name] += number

    def done(
        self, latency_ns: int, stages_ns: Mapping[str, int], objects: int | None, unsent: int
    ) -> None:
        """Note a finished result, and how many sinks did not take it."""
        with self._lock:
            self._counts["done"] += 1
            self._counts["unsent"] += unsent
            for name, spent in stages_ns.items():
                self._stages[name].add(spent)
            self._latency.add(latency_ns)
            self._finished.add(self._clock.monotonic_ns())
            if objects is not None:
                self._objects.add(objects)
                self._objects_total += objects
                self._counted += 1

    def settled(
        self, generation: int | None, settings: Mapping[str, Any], unsettled: str = ""
    ) -> None:
        """Note which settings are in force, and why those of the last generation are not.

        `generation` None = the last one goes on counting.
        """
        with self._lock:
            self._settings, self._unsettled = settings, unsettled
            self._generation = self._generation if generation is None else generation

    def renew(self) -> None:
        """Another engine took over: what was timed of the one before says nothing of it."""
        with self._lock:
            self._stages = {name: Window() for name in STAGES}
            self._latency = Window()

    def mean_objects(self) -> float | None:
        """Objects per frame since the start; None where the task does not count."""
        with self._lock:
            return self._objects_total / self._counted if self._counted else None

    def health(self) -> PipelineHealth:
        """Take a consistent picture of everything."""
        with self._lock:
            finished = self._finished.values()
            objects = self._objects.values()
            stages = {name: window.stats_ms() for name, window in self._stages.items()}
            return PipelineHealth(
                pipeline=self._pipeline,
                state=self.state,
                backend=self.backend,
                engine=self.engine,
                fps=self._rate_hz(finished),
                latency=self._latency.stats_ms(),
                stages={name: stats for name, stats in stages.items() if stats is not None},
                counters=Counters(**self._counts),
                error=self.error,
                objects=round(float(objects.mean()), 3) if len(objects) else None,
                settings=self._settings,
                generation=self._generation,
                unsettled=self._unsettled,
            )

    def _rate_hz(self, finished: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        """Results per second over the window; falls towards 0 when no more come."""
        if len(finished) < 2:
            return 0.0
        first, last = finished.min(), finished.max()
        silence = self._clock.monotonic_ns() - last
        gap = (last - first) / (len(finished) - 1)
        span = last - first + max(0.0, silence - 2 * gap)
        return round(float((len(finished) - 1) * 1e9 / span), 3) if span else 0.0
