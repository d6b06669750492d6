from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetrt.clock import SystemClock
from edgetrt.errors import CudaError, InferenceError, SourceLostError
from edgetrt.ports import Clock, Source
from edgetrt.runtime.meter import Meter
from edgetrt.runtime.network import Network
from edgetrt.runtime.newest import Newest
from edgetrt.runtime.pipeline import REFUSED_IN_A_ROW, Pipeline
from edgetrt.types import Counters, Frame, Grant
from tests.fakes import TIMEOUT, FakeClock, FakeSink, FakeSource
from tests.runtime.scenes import answer, backend, frame, frames, network


class Bench:
    """A pipeline with everything around it faked."""

    def __init__(
        self,
        source: Source | Iterable[Frame | str | Exception],
        net: Network | None = None,
        clock: Clock | None = None,
        grant: Grant | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self.sink, self.meter = FakeSink(), Meter("test", clock)
        self.pipeline = Pipeline(
            name="test",
            source=source if isinstance(source, (FakeSource, Newest)) else FakeSource(source),
            network=net or network(),
            sinks=[self.sink],
            meter=self.meter,
            clock=clock,
            grant=grant or Grant(),
        )

    def run(self, frames: int | None = None) -> Counters:
        self.pipeline.run(threading.Event(), frames)
        return self.meter.counters


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_frame_becomes_its_own_result_in_order(depth: int) -> None:
    bench = Bench(frames(*range(50)), network(depth=depth))
    assert bench.run() == Counters(read=50, done=50)
    assert [r.frame.seq for r in bench.sink.results] == list(range(50))
    assert [answer(r.output) for r in bench.sink.results] == list(range(50))
    assert bench.sink.results[0].engine == "first"
    assert set(bench.sink.results[0].stages_ns) >= {"read", "preprocess", "infer", "postprocess"}


@pytest.mark.parametrize("depth", [1, 2])
def test_gaps_in_the_numbers_are_frames_dropped(depth: int) -> None:
    bench = Bench(frames(0, 1, 5, 6, 9), network(depth=depth))
    assert bench.run() == Counters(read=10, done=5, dropped=5)
    assert [r.dropped for r in bench.sink.results][-1] == 5


def test_a_result_is_not_held_back_until_the_next_frame_comes() -> None:
    """With two lanes and no next frame in sight, what is in flight lands."""
    seen: list[int] = []

    class Spy(FakeSource):
        def read(self, timeout_s: float) -> Frame | None:
            got = super().read(timeout_s)
            if got is None:
                seen.append(len(bench.sink.results))
            return got

    bench = Bench(Spy([frame(0), TIMEOUT, TIMEOUT, TIMEOUT]), network(depth=2))
    bench.run()
    assert seen[:2] == [0, 1]


@pytest.mark.parametrize("depth", [1, 2])
def test_frames_that_cannot_be_answered_are_refused_and_counted(depth: int) -> None:
    def nan_for_odd(buffers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        mean = buffers["x"].mean().reshape(1)
        return {"y": np.where(mean % 2 == 1, np.nan, mean)}

    bench = Bench(frames(*range(10)), network(backend(compute=nan_for_odd), depth))
    assert bench.run() == Counters(read=10, done=5, refused=5)
    assert [answer(r.output) for r in bench.sink.results] == [0, 2, 4, 6, 8]


def test_a_network_that_answers_nothing_but_nan_is_given_up() -> None:
    broken = backend(compute=lambda _: {"y": np.array([np.nan])})
    bench = Bench(frames(*range(100)), network(broken))
    with pytest.raises(InferenceError, match="NaN"):
        bench.run()
    assert bench.meter.counters.refused == REFUSED_IN_A_ROW
    assert broken.open == 0


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_failing_session_ends_the_run_with_every_frame_accounted_for(depth: int) -> None:
    failing = backend()
    bench = Bench(frames(*range(20)), network(failing, depth))
    failing.fail_next = 1
    with pytest.raises(InferenceError):
        bench.run()
    counters = bench.meter.counters
    assert counters.refused >= 1
    assert counters.read == counters.done + counters.dropped + counters.refused
    assert failing.open == 0


def test_a_lost_source_still_delivers_what_was_in_flight() -> None:
    bench = Bench([*frames(0, 1, 2), SourceLostError("gone")], network(depth=2))
    with pytest.raises(SourceLostError):
        bench.run()
    counters = bench.meter.counters
    assert counters.read == counters.done + counters.dropped + counters.refused == 3


def test_a_sink_that_is_full_costs_the_result_and_not_the_frame() -> None:
    bench = Bench(frames(0, 1, 2))
    bench.sink.full = True
    assert bench.run() == Counters(read=3, done=3, unsent=3)


def test_frames_are_limited_on_request() -> None:
    bench = Bench(frames(*range(50)), network(depth=2))
    assert bench.run(frames=7) == Counters(read=7, done=7)


def test_the_grant_sets_the_rate() -> None:
    clock = FakeClock()
    bench = Bench(frames(*range(21)), clock=clock, grant=Grant(rate_hz=10.0))
    start = clock.now_ns
    bench.run()
    assert (clock.now_ns - start) / 1e9 == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_swap_takes_effect_between_two_frames_and_loses_none(depth: int) -> None:
    old, new = backend(), backend()
    second = network(new, depth, "second")
    swapped: list[threading.Event] = []

    class Swapping(FakeSource):
        def read(self, timeout_s: float) -> Frame | None:
            got = super().read(timeout_s)
            if got is not None and got.seq == 10:
                swapped.append(bench.pipeline.swap(second))
            return got

    bench = Bench(Swapping(frames(*range(20))), network(old, depth))
    assert bench.run() == Counters(read=20, done=20)
    assert [r.engine for r in bench.sink.results] == ["first"] * 10 + ["second"] * 10
    assert [r.frame.seq for r in bench.sink.results] == list(range(20))
    assert swapped[0].is_set()
    assert (old.open, new.open) == (0, 0)


def test_no_frame_waits_for_the_end_of_the_network_before() -> None:
    old, seen = backend(), list[int]()

    def compute(buffers: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        seen.append(old.open)
        return {"y": buffers["x"].mean(keepdims=True).reshape(1)}

    class Swapping(FakeSource):
        def read(self, timeout_s: float) -> Frame | None:
            got = super().read(timeout_s)
            if got is not None and got.seq == 1:
                bench.pipeline.swap(network(backend(compute=compute), 1, "second"))
            return got

    bench = Bench(Swapping(frames(*range(4))), network(old, 1))
    assert bench.run() == Counters(read=4, done=4)
    assert seen == [1, 0, 0]


def test_a_thousand_swaps_lose_no_frame() -> None:
    net = backend()

    class Swapping(FakeSource):
        def read(self, timeout_s: float) -> Frame | None:
            got = super().read(timeout_s)
            if got is not None:
                bench.pipeline.swap(network(net, 2, str(got.seq)))
            return got

    bench = Bench(Swapping(frame(n) for n in range(1000)), network(net, 2, "0"))
    assert bench.run() == Counters(read=1000, done=1000)
    assert [r.engine for r in bench.sink.results] == [str(n) for n in range(1000)]
    assert net.open == 0


def test_two_lanes_overlap_preparing_and_inferring() -> None:
    """While one frame is in `infer`, the next one is read: seen from inside the network."""
    reads: list[int] = []
    during: list[int] = []
    second_read = threading.Event()

    def slow(buffers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        during.append(len(reads))
        second_read.wait(2.0)
        during.append(len(reads))
        return {"y": buffers["x"].mean().reshape(1)}

    class Counting(FakeSource):
        def read(self, timeout_s: float) -> Frame | None:
            reads.append(1)
            if len(reads) == 2:
                second_read.set()
            return super().read(timeout_s)

    bench = Bench(Counting(frames(0, 1, 2)), network(backend(compute=slow), depth=2))
    bench.run()
    assert during[1] >= 2


def test_the_newest_frame_wins_and_the_others_are_counted() -> None:
    class Camera(FakeSource):
        def read(self, timeout_s: float) -> Frame | None:
            time.sleep(0.001)
            return super().read(timeout_s)

    source = Newest(Camera((frame(n) for n in range(200)), live=True))
    bench = Bench(source, network(backend(delay_s=0.01)))
    counters = bench.run()
    source.close()
    assert counters.read == 200
    assert counters.dropped > 0
    assert counters.done + counters.dropped == 200
    numbers = [r.frame.seq for r in bench.sink.results]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 199


def test_newest_hands_on_what_ended_the_source() -> None:
    source = Newest(FakeSource([frame(0), SourceLostError("unplugged")], live=True))
    first = source.read(1.0)
    assert first is not None
    assert first.seq == 0
    with pytest.raises(SourceLostError, match="unplugged"):
        source.read(1.0)
    source.close()


def test_reconnects_of_the_source_are_counted() -> None:
    source = FakeSource(frames(0, 1))
    source.reconnects = 2
    bench = Bench(source)
    assert replace(bench.run(), read=0, done=0) == Counters(reconnects=2)


def test_a_network_takes_over_while_no_frame_comes() -> None:
    """A camera that is away does not keep a new engine waiting."""
    old, new = backend(), backend()
    swapped: list[bool] = []

    class Silent(FakeSource):
        def read(self, timeout_s: float) -> Frame | None:
            if not swapped:
                waiting.append(bench.pipeline.swap(network(new, 1, "second")))
            swapped.append(waiting[0].is_set())
            return super().read(timeout_s)

    waiting: list[threading.Event] = []
    bench = Bench(Silent([TIMEOUT, TIMEOUT]), network(old))
    bench.run()
    assert swapped == [False, True, True]
    assert (old.open, new.open) == (0, 0)


def test_a_swap_that_another_overtakes_is_closed_and_never_said_to_be_done() -> None:
    old, first, second = backend(), backend(), backend()
    events: list[threading.Event] = []

    class Swapping(FakeSource):
        def read(self, timeout_s: float) -> Frame | None:
            if not events:
                for net, name in ((first, "first"), (second, "second")):
                    events.append(bench.pipeline.swap(network(net, 1, name)))
            return super().read(timeout_s)

    bench = Bench(Swapping(frames(0, 1)), network(old, 1, "old"))
    bench.run()
    assert [r.engine for r in bench.sink.results] == ["second", "second"]
    assert [event.is_set() for event in events] == [False, True]
    assert (old.open, first.open, second.open) == (0, 0, 0)


def test_a_swap_can_be_withdrawn_until_it_has_taken_effect() -> None:
    old, new = backend(), backend()
    bench = Bench(frames(0, 1), network(old, 1, "old"))
    assert bench.pipeline.withdraw(bench.pipeline.swap(network(new, 1, "new")))
    taken = bench.pipeline.swap(network(new, 1, "newer"))
    bench.run()
    assert not bench.pipeline.withdraw(taken)
    assert {r.engine for r in bench.sink.results} == {"newer"}
    late = bench.pipeline.swap(network(new, 1, "late"))
    assert not late.is_set()
    assert (old.open, new.open) == (0, 0)


def test_a_slow_rate_does_not_hold_up_the_end_or_another_rate() -> None:
    stop = threading.Event()

    class Impatient(FakeClock):
        naps = 0

        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            self.naps += 1
            assert seconds <= 0.5
            if self.naps == 3:
                bench.pipeline.grant = Grant(rate_hz=10.0)
            if self.naps == 5:
                stop.set()

    clock = Impatient()
    bench = Bench(frames(*range(100)), clock=clock, grant=Grant(rate_hz=0.01))
    start = clock.now_ns
    bench.pipeline.run(stop)
    assert 2 <= bench.meter.counters.done <= 4
    assert (clock.now_ns - start) / 1e9 < 2.0


def test_a_network_that_cannot_be_closed_leaves_no_other_open() -> None:
    class Stuck(Network):
        def close(self) -> None:
            super().close()
            raise CudaError("cannot free")

    fails = backend()
    made = network()
    old = Stuck(**{field.name: getattr(made, field.name) for field in fields(made)})
    new = network(fails, 1, "second")

    def swaps() -> Iterator[Frame]:
        yield frame(0)
        bench.pipeline.swap(new)
        fails.fail_next = 1
        yield frame(1)

    bench = Bench(FakeSource(swaps()), old)
    with pytest.raises(CudaError, match="cannot free"):
        bench.run()
    assert fails.open == 0
    late = backend()
    bench.pipeline.swap(network(late))
    assert late.open == 0, "it is over, and says so to whoever comes"
