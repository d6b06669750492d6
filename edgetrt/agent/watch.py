"""What the runtime is seen to do, kept for whoever has to judge it: counts, times of frames, log lines.

Reports and results come in the event loop, questions from the thread that walks updates.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from edgetrt.update.measure import MOST_FRAMES, SETTLE_S, Seen, figures
from edgetrt.update.record import Figures

if TYPE_CHECKING:
    from edgetrt.wire import FrameResult, PipelineReport

_WINDOW_S = 60.0
"""Length of the windows from which the figures of what serves are taken."""
_LEAST_S = 4.0
"""Figures of less would be chance."""
_LINES = 50


class Gauge:
    """One pipeline, from a moment on.

    Args:
        since_ns: monotonic; nothing before it counts.
        engine: the fingerprint that must run; nothing of another one counts. Empty = any.
        settle_s: how long after the first sign of it nothing counts yet.
        process_ns: of the runtime that runs now; 0 = not known.
    """

    def __init__(
        self, since_ns: int, engine: str = "", settle_s: float = 0.0, process_ns: int = 0
    ) -> None:
        self._process_ns = process_ns
        self._since_ns, self._engine, self._settle_ns = since_ns, engine, round(settle_s * 1e9)
        self._begin_ns: int | None = None
        self._first_ns: int | None = None
        self._last_ns = 0
        self._last: PipelineReport | None = None
        self._counts = dict.fromkeys(("done", "read", "dropped", "refused", "restarts"), 0)
        self._latencies: deque[float] = deque(maxlen=MOST_FRAMES)
        self._starts = 0

    def report(self, report: PipelineReport, now_ns: int) -> None:
        """Take the runtime's word of now."""
        if now_ns < self._since_ns:
            return
        before, self._last = self._last, report
        self._starts += bool(self._process_ns) and report.process_ns != self._process_ns
        self._process_ns = report.process_ns
        self._last_ns = now_ns
        if self._begin_ns is None and report.state == "running" and self._right(report.engine):
            self._begin_ns = now_ns + self._settle_ns
        if before is not None:
            self._count(before, report)
        if self._first_ns is None and self._begin_ns is not None and now_ns >= self._begin_ns:
            self._first_ns = now_ns
            self._counts = {**dict.fromkeys(self._counts, 0), "restarts": self._counts["restarts"]}

    def result(self, result: FrameResult, now_ns: int) -> None:
        """Take the time of a frame."""
        if self._begin_ns is not None and now_ns >= self._begin_ns and self._right(result.engine):
            self._latencies.append(result.latency_ms)

    def seen(self, now_ns: int, rate_hz: float | None = None) -> Seen:
        """All that counts, until the last report."""
        last = self._last
        if last is None:
            return Seen(silent_s=(now_ns - self._since_ns) * 1e-9)
        begun = self._first_ns is not None
        span_s = (self._last_ns - (self._first_ns or 0)) * 1e-9 if begun else 0.0
        counts = self._counts if begun else {"restarts": self._counts["restarts"]}
        return Seen(
            state=last.state,
            error=last.error,
            engine=last.engine,
            span_s=span_s,
            silent_s=(now_ns - self._last_ns) * 1e-9,
            starts=self._starts,
            waited=_share(last, "read"),
            busy=_share(last, "infer"),
            rate_hz=last.settings.get("rate_hz", rate_hz),
            latencies_ms=tuple(self._latencies),
            **counts,
        )

    def _right(self, engine: str) -> bool:
        return not self._engine or (bool(engine) and self._engine.startswith(engine))

    def _count(self, before: PipelineReport, now: PipelineReport) -> None:
        """Add what was done in between; a pipeline that began anew counts from 0."""
        anew = now.counters.read < before.counters.read or now.counters.done < before.counters.done
        for name in self._counts:
            was = 0 if anew else getattr(before.counters, name)
            self._counts[name] += getattr(now.counters, name) - was


class Watch:
    """All pipelines: how they run all the time, and how they have run since a switch.

    Args:
        monotonic_ns: clock of everything here.
        wall: seconds since 1970, for the log.
    """

    def __init__(
        self,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic_ns, self._wall = monotonic_ns, wall
        self._lock = threading.Lock()
        self._running: dict[str, tuple[Gauge, int]] = {}
        self._windows: dict[str, tuple[Seen, int]] = {}
        self._trial: dict[str, Gauge] = {}
        self._trial_ns: int | None = None
        self._process_ns = 0
        self._memory = Evenly()
        self._hottest: float | None = None
        self._states: dict[str, tuple[str, str]] = {}
        self._lines: deque[str] = deque(maxlen=_LINES)

    def report(self, report: PipelineReport) -> None:
        """Take what the runtime says of a pipeline."""
        now_ns = self._monotonic_ns()
        with self._lock:
            self._process_ns = report.process_ns
            self._note(report)
            self._turn(report, now_ns)
            if self._trial_ns is not None:
                if report.pipeline in self._trial:
                    self._trial[report.pipeline].report(report, now_ns)
                if report.rss_bytes is not None:
                    self._memory.put(report.rss_bytes / 1e6)

    def result(self, result: FrameResult) -> None:
        """Take the time of a frame."""
        now_ns = self._monotonic_ns()
        with self._lock:
            if result.pipeline in self._running:
                self._running[result.pipeline][0].result(result, now_ns)
            if result.pipeline in self._trial:
                self._trial[result.pipeline].result(result, now_ns)

    def figures(self, rates_hz: Mapping[str, float | None]) -> dict[str, Figures]:
        """How each pipeline has run in the last minute, or since it is known."""
        now_ns = self._monotonic_ns()
        with self._lock:
            found = {}
            for name, (gauge, _) in self._running.items():
                seen = gauge.seen(now_ns, rates_hz.get(name))
                whole, ended_ns = self._windows.get(name, (seen, now_ns))
                fresh = now_ns - ended_ns < 2 * _WINDOW_S * 1e9
                known = whole if fresh and whole.span_s > seen.span_s else seen
                found[name] = figures(known) if known.span_s >= _LEAST_S else None
            return {name: kept for name, kept in found.items() if kept is not None}

    def begin(self, engines: Mapping[str, str]) -> None:
        """Watch these pipelines from now on, each with the engine that it must run."""
        now_ns = self._monotonic_ns()
        with self._lock:
            self._trial = {
                name: Gauge(now_ns, engines[name], SETTLE_S, self._process_ns) for name in engines
            }
            self._trial_ns, self._memory, self._hottest = now_ns, Evenly(), None

    def end(self) -> None:
        """The trial is over."""
        with self._lock:
            self._trial, self._trial_ns, self._memory = {}, None, Evenly()

    def trial(self, rates_hz: Mapping[str, float | None]) -> tuple[dict[str, Seen], float]:
        """What was seen since `begin`, and for how long."""
        now_ns = self._monotonic_ns()
        with self._lock:
            seen = {
                name: gauge.seen(now_ns, rates_hz.get(name)) for name, gauge in self._trial.items()
            }
            begun_ns = now_ns if self._trial_ns is None else self._trial_ns
            return seen, (now_ns - begun_ns) * 1e-9

    def heat(self, celsius: float | None) -> float | None:
        """Note a temperature; returns the highest since `begin`."""
        with self._lock:
            if celsius is not None:
                self._hottest = max(celsius, self._hottest or celsius)
            return self._hottest

    @property
    def memory_mb(self) -> tuple[float, ...]:
        """Of the runtime since `begin`, evenly."""
        with self._lock:
            return tuple(self._memory.values)

    @property
    def log(self) -> tuple[str, ...]:
        """What the pipelines said of themselves lately, the oldest first."""
        with self._lock:
            return tuple(self._lines)

    def _turn(self, report: PipelineReport, now_ns: int) -> None:
        """Keep a whole window of what runs, and begin another."""
        gauge, since_ns = self._running.get(report.pipeline, (None, 0))
        if gauge is None or now_ns - since_ns > _WINDOW_S * 1e9:
            if gauge is not None:
                self._windows[report.pipeline] = gauge.seen(now_ns), now_ns
            gauge = Gauge(now_ns)
            self._running[report.pipeline] = gauge, now_ns
        gauge.report(report, now_ns)

    def _note(self, report: PipelineReport) -> None:
        state = report.state, report.error
        if self._states.get(report.pipeline) != state:
            self._states[report.pipeline] = state
            at = time.strftime("%H:%M:%S", time.localtime(self._wall()))
            told = f": {report.error}" if report.error else ""
            self._lines.append(f"{at} {report.pipeline} {report.state}{told}")


def _share(report: PipelineReport, stage: str) -> float:
    """Share of a frame's period that a stage takes."""
    found = report.stages.get(stage)
    return min(1.0, found.mean_ms * report.fps / 1e3) if found is not None else 0.0


class Evenly:
    """Values of a whole time, at most so many: of twice as long a time, every second one is kept."""

    def __init__(self, most: int = 512) -> None:
        self.values: list[float] = []
        self._most, self._stride, self._skipped = most, 1, 0

    def put(self, value: float) -> None:
        """Keep it, or leave it out."""
        self._skipped += 1
        if self._skipped < self._stride:
            return
        self._skipped = 0
        self.values.append(value)
        if len(self.values) > self._most:
            self.values = self.values[::2]
            self._stride *= 2
