from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from edgetrt.clock import SystemClock
from edgetrt.config import PipelineSettings
from edgetrt.errors import ConfigError, EdgetrtError, InferenceError, ModelError, SourceLostError
from edgetrt.ports import Source
from edgetrt.runtime.meter import Meter
from edgetrt.runtime.network import Network
from edgetrt.runtime.newest import Newest
from edgetrt.runtime.supervisor import Supervisor
from edgetrt.types import Counters, Frame, Grant
from tests.fakes import FakeSink, FakeSource
from tests.runtime.scenes import backend, frames, network


def supervisor(
    source: Callable[[], Source], net: Callable[[], Network], sink: FakeSink
) -> Supervisor:
    clock = SystemClock()
    return Supervisor(
        name="test",
        open_source=source,
        open_network=net,
        sinks=[sink],
        meter=Meter("test", clock),
        clock=clock,
    )


def in_turn(*lives: FakeSource | EdgetrtError) -> Callable[[], Source]:
    rest = iter(lives)

    def opens() -> Source:
        life = next(rest)
        if isinstance(life, EdgetrtError):
            raise life
        return life

    return opens


def test_a_lost_source_is_opened_again_and_counts_go_on() -> None:
    sink, net = FakeSink(), backend()
    first = FakeSource([*frames(0, 1), SourceLostError("unplugged")])
    second = FakeSource(frames(0, 1, 2))
    watched = supervisor(in_turn(first, second), lambda: network(net), sink)
    watched.run(threading.Event())
    assert watched.meter.counters == Counters(read=5, done=5, restarts=1)
    assert watched.meter.state == "ended"
    assert (first.closed, second.closed, sink.closed, net.open) == (1, 1, 1, 0)


def test_a_failed_session_is_loaded_again() -> None:
    sink, net = FakeSink(), backend()
    net.fail_next = 1
    watched = supervisor(lambda: FakeSource(frames(0, 1)), lambda: network(net), sink)
    watched.run(threading.Event())
    counters = watched.meter.counters
    assert counters.restarts == 1
    assert counters.read == counters.done + counters.refused
    assert net.loads == 2


@pytest.mark.parametrize("error", [ConfigError("bad key"), ModelError("damaged")])
def test_what_no_retry_mends_is_not_retried(error: EdgetrtError) -> None:
    sink = FakeSink()

    def opens() -> Network:
        raise error

    watched = supervisor(lambda: FakeSource([]), opens, sink)
    watched.run(threading.Event())
    assert (watched.meter.state, watched.meter.error) == ("failed", error.message)
    assert watched.meter.counters.restarts == 0
    assert sink.closed == 1


def test_a_source_that_does_not_open_leaves_no_session_behind() -> None:
    net = backend()
    watched = supervisor(in_turn(SourceLostError("no camera")), lambda: network(net), FakeSink())
    with pytest.raises(SourceLostError):
        watched.run_once(threading.Event())
    assert net.open == 0


def test_stop_ends_a_back_off() -> None:
    stop = threading.Event()
    watched = supervisor(
        in_turn(*(InferenceError("again") for _ in range(100))), network, FakeSink()
    )
    thread = threading.Thread(target=watched.run, args=(stop,))
    thread.start()
    stop.set()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_a_grant_reaches_the_running_pipeline() -> None:
    seen: list[float | None] = []

    class Spy(FakeSource):
        def read(self, timeout_s: float) -> Frame | None:
            assert watched.pipeline is not None
            seen.append(watched.pipeline.grant.rate_hz)
            watched.limit(Grant(7.0))
            seen.append(watched.pipeline.grant.rate_hz)
            return super().read(timeout_s)

    watched = supervisor(lambda: Spy([]), network, FakeSink())
    watched.limit(Grant(5.0))
    watched.run_once(threading.Event())
    assert seen == [5.0, 7.0]


@pytest.mark.parametrize(
    ("limit_hz", "file_hz", "afar_hz", "granted_hz"),
    [
        (None, None, None, None),
        (None, 15.0, None, 15.0),
        (None, 15.0, 30.0, 30.0),
        (10.0, None, None, 10.0),
        (10.0, 15.0, None, 10.0),
        (10.0, 5.0, None, 5.0),
        (10.0, 5.0, 30.0, 10.0),
        (10.0, 15.0, 3.0, 3.0),
    ],
)
def test_nobody_gets_more_than_the_limit(
    limit_hz: float | None,
    file_hz: float | None,
    afar_hz: float | None,
    granted_hz: float | None,
) -> None:
    watched = supervisor(lambda: FakeSource([]), network, FakeSink())
    watched.demand(file_hz)
    watched.settle(1, PipelineSettings(rate_hz=afar_hz))
    watched.limit(Grant(limit_hz))
    assert watched.granted == Grant(granted_hz)


def test_a_fault_of_ours_is_backed_off_from_like_any_other() -> None:
    net = backend()
    first = FakeSource([*frames(0), ZeroDivisionError("a bug in an adapter")])
    watched = supervisor(in_turn(first, FakeSource(frames(0, 1))), lambda: network(net), FakeSink())
    watched.run(threading.Event())
    assert watched.meter.state == "ended"
    assert watched.meter.counters == Counters(read=3, done=3, restarts=1)
    assert net.open == 0


def test_restarts_do_not_begin_the_wanted_frames_anew() -> None:
    first = FakeSource([*frames(0, 1, 2), SourceLostError("unplugged")])
    watched = supervisor(in_turn(first, FakeSource(frames(*range(9)))), network, FakeSink())
    watched.run(threading.Event(), 5)
    assert watched.meter.counters == Counters(read=5, done=5, restarts=1)


def test_a_live_source_with_a_fault_does_not_leave_the_loop_waiting() -> None:
    source = Newest(FakeSource([ZeroDivisionError("a bug in an adapter")], live=True))
    with pytest.raises(ZeroDivisionError):
        source.read(10.0)
    source.close()
