"""The loop: one pipeline, one thread; each frame reads straight down.

    wait for the pace -> read -> preprocess into the lane -> infer -> decode -> result -> sinks

With two lanes the next frame is prepared while the one before it runs; results keep their order.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetrt.errors import InferenceError
from edgetrt.ports import EndOfStream
from edgetrt.runtime.meter import Meter, Stopwatch
from edgetrt.runtime.pacing import Pace
from edgetrt.runtime.tuning import Tuning
from edgetrt.types import Detections, Frame, Grant, Result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgetrt.geometry import Fit
    from edgetrt.ports import Clock, OverlappingSession, Sink, Source
    from edgetrt.runtime.network import Lane, Network

REFUSED_IN_A_ROW = 30
"""Refused answers after which the network itself is taken for broken and reloaded."""


NAP_S = 0.5
"""How long the loop waits at most before it looks whether it was stopped, or given another rate."""

Tensors = Callable[[], "Mapping[str, NDArray[np.generic]]"]
"""Gives the output of an inference, waiting for it when it is under way."""


@dataclass(frozen=True)
class Flight:
    """A frame between its preprocessing and its result."""

    frame: Frame
    lane: Lane
    placed: Fit
    watch: Stopwatch
    tensors: Tensors


@dataclass(frozen=True)
class Swap:
    """A network that waits to take over, and what is set once it has."""

    network: Network
    done: threading.Event


class Pipeline:
    """Runs one network over one source.

    `grant` and the network are read at the frame boundary: setting either is one reference swapped.

    Args:
        name: of the pipeline, as results carry it.
        source: a live source must already be behind a newest-wins slot.
        network: what to run; the pipeline closes it.
        sinks: each gets every result; the pipeline does not close them.
        meter: where counts and times go.
        clock: time.
        grant: how fast the pipeline may run.
        tuning: which limits its results keep.

    Attributes:
        leave: set it and `run` returns at the next frame boundary.
    """

    def __init__(
        self,
        *,
        name: str,
        source: Source,
        network: Network,
        sinks: Sequence[Sink],
        meter: Meter,
        clock: Clock,
        grant: Grant,
        tuning: Tuning | None = None,
    ) -> None:
        self.grant = grant
        self.leave = threading.Event()
        self._tuning = tuning or Tuning(meter)
        self._tuning.take(network.task)
        self._name = name
        self._source = source
        self._network = network
        self._next: Swap | None = None
        self._retired: Network | None = None
        self._swapping = threading.Lock()
        self._over = False
        self._sinks = sinks
        self._meter = meter
        self._clock = clock
        self._pace = Pace(clock)
        self._flights: deque[Flight] = deque()
        self._turn = 0
        self._seq = -1
        self._read_ns = 0
        self._reconnects = 0
        self._refused_in_a_row = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"infer-{name}")

    def run(self, stop: threading.Event, frames: int | None = None) -> None:
        """Work until `stop` is set, the source ends, or `frames` have been looked at.

        Raises:
            SourceError: the source failed.
            InferenceError: the session failed, or its answers are useless.
        """
        looked_at = 0
        try:
            while not (stop.is_set() or self.leave.is_set()) and looked_at != frames:
                frame = self._wait_and_read()
                if frame is not None:
                    self.step(frame)
                    looked_at += 1
                elif self._next is not None:
                    self._take_over()
                    self._part()
            self._land_all()
        except EndOfStream:
            self._land_all()
        finally:
            self._abandon()

    def swap(self, network: Network) -> threading.Event:
        """Let `network` take over between two frames; the event is set once it has.

        A network that never takes over is closed here: one that another swap overtakes before its turn,
        and one that comes after the pipeline's end.
        """
        swap = Swap(network, threading.Event())
        with self._swapping:
            overtaken = swap if self._over else self._next
            self._next = None if self._over else swap
        if overtaken is not None:
            overtaken.network.close()
        return swap.done

    def withdraw(self, done: threading.Event) -> bool:
        """Take back the swap of that event; False when it has taken effect already."""
        with self._swapping:
            waiting = self._next if self._next is not None and self._next.done is done else None
            if waiting is not None:
                self._next = None
        if waiting is not None:
            waiting.network.close()
        return not done.is_set()

    def step(self, frame: Frame) -> None:
        """Take one frame as far as it goes without waiting for it."""
        self._account(frame)
        if self._next is not None:
            self._take_over()
        lanes = self._network.lanes
        lane = lanes[self._turn % len(lanes)]
        self._turn += 1
        watch = Stopwatch(self._clock)
        watch.stages_ns["read"] = self._read_ns
        with watch.stage("preprocess"):
            placed = lane.preprocessor.write(frame)
        self._flights.append(Flight(frame, lane, placed, watch, self._launch(lane, watch)))
        while len(self._flights) >= len(lanes):
            self._land()
        self._part()

    def _wait_and_read(self) -> Frame | None:
        """Wait for the pace, then take the newest frame; results in flight do not wait with us."""
        rate_hz = self.grant.rate_hz
        due_s = self._pace.due_s(rate_hz)
        if due_s > 0:
            self._land_all()
        if due_s > NAP_S:
            self._clock.sleep(NAP_S)
            return None
        missed = self._pace.wait(rate_hz)
        start = self._clock.monotonic_ns()
        frame = self._source.read(timeout_s=0.0 if self._flights else 0.5)
        if frame is None and self._flights:
            self._land_all()
            frame = self._source.read(timeout_s=0.5)
        self._read_ns = self._clock.monotonic_ns() - start
        if missed:
            self._meter.count(missed=missed)
        return frame

    def _launch(self, lane: Lane, watch: Stopwatch) -> Tensors:
        """Start the inference; what is returned waits for it.

        A device runs by itself once it was told to; a CPU backend needs a thread of ours to overlap.
        """
        session = lane.session

        def infer() -> Mapping[str, NDArray[np.generic]]:
            with watch.stage("infer"):
                return session.infer()

        several = len(self._network.lanes) > 1
        if several and lane.overlapping is not None:
            return self._leave_running(lane.overlapping, watch)
        if several:
            return self._worker.submit(infer).result
        tensors = infer()
        return lambda: tensors

    def _leave_running(self, session: OverlappingSession, watch: Stopwatch) -> Tensors:
        started = self._clock.monotonic_ns()
        session.start()

        def wait() -> Mapping[str, NDArray[np.generic]]:
            tensors = session.wait()
            watch.stages_ns["infer"] = self._clock.monotonic_ns() - started
            return tensors

        return wait

    def _land(self) -> None:
        """Finish the oldest flight: decode, count, hand to the sinks."""
        flight = self._flights.popleft()
        frame, watch = flight.frame, flight.watch
        tensors = flight.tensors()
        try:
            with watch.stage("postprocess"):
                task = self._tuning.task or self._network.task
                output = task.decode(tensors, flight.placed, frame.size)
        except InferenceError as error:
            self._refuse(error)
            return
        self._refused_in_a_row = 0
        latency_ns = self._clock.monotonic_ns() - frame.captured_ns
        result = Result(
            pipeline=self._name,
            frame=frame,
            output=output,
            labels=self._network.labels,
            engine=self._network.fingerprint,
            latency_ns=latency_ns,
            stages_ns=watch.stages_ns,
            dropped=self._meter.dropped,
        )
        with watch.stage("publish"):
            unsent = sum(not sink.put(result) for sink in self._sinks)
        objects = len(output) if isinstance(output, Detections) else None
        self._meter.done(latency_ns, watch.stages_ns, objects, unsent)

    def _land_all(self) -> None:
        while self._flights:
            self._land()

    def _refuse(self, error: InferenceError) -> None:
        """Count an answer that is none; give up on the network when there is nothing else."""
        self._meter.count(refused=1)
        self._meter.error = error.message
        self._refused_in_a_row += 1
        if self._refused_in_a_row >= REFUSED_IN_A_ROW:
            raise error

    def _account(self, frame: Frame) -> None:
        """Count what was captured since the last frame: gaps in the numbers are frames overwritten."""
        lost = frame.seq - self._seq - 1
        self._seq = frame.seq
        reconnects = self._source.reconnects - self._reconnects
        self._reconnects += reconnects
        self._meter.count(read=lost + 1, dropped=lost, reconnects=reconnects)

    def _take_over(self) -> None:
        """Change networks with nothing in flight."""
        self._land_all()
        with self._swapping:
            swap, self._next = self._next, None
            if swap is None:  # withdrawn
                return
            old, self._network = self._network, swap.network
            self._tuning.take(swap.network.task)
            swap.done.set()
        self._meter.backend, self._meter.engine = self._network.backend, self._network.fingerprint
        self._meter.renew()
        self._part()
        self._retired = old

    def _part(self) -> None:
        """Close the network before, beside the new one's first frame: it can take long."""
        old, self._retired = self._retired, None
        if old is not None:
            old.close()

    def _abandon(self) -> None:
        """Leave nothing running; a frame that an error left half-way is refused and counted."""
        self._worker.shutdown(wait=True)
        self._flights.clear()
        now = self._meter.counters
        self._meter.count(refused=now.read - now.done - now.dropped - now.refused)
        with self._swapping:
            self._over = True
            waiting, self._next = self._next, None
        with ExitStack() as closing:  # each, whatever becomes of the others
            if waiting is not None:
                closing.callback(waiting.network.close)
            closing.callback(self._network.close)
            closing.callback(self._part)
