"""The agent as a process, with a real link and a real mosquitto."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgetrt import wire
from edgetrt.link import Sender
from tests.broker import Observer, observing, running

pytestmark = pytest.mark.broker

RESULTS = wire.result("cam-1", "street")
HEALTH = wire.health("cam-1")
STATUS = wire.status("cam-1")

PROGRAM = """
import sys
from functools import partial
from pathlib import Path
from edgetrt.agent.process import run_agent
from edgetrt.config import BrokerConfig, DeviceConfig, PublishConfig
from edgetrt.mqtt import Backoff, MqttTransport, Settings
config = DeviceConfig(
    device="cam-1", broker=BrokerConfig(port=int(sys.argv[1])), publish=PublishConfig(health_s=0.2)
)
quick = {"settings": Settings(will_delay_s=0), "backoff": Backoff(0.05, 0.2)}
link = Path(sys.argv[2])
connect = partial(MqttTransport, config.broker, **quick)
sys.exit(run_agent(config, link, connect, link.parent / "state"))
"""


@contextmanager
def agent(port: int, link: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running agent process, killed when the test leaves it running."""
    root = str(Path(wire.__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(port), str(link)],
        env={**os.environ, "PYTHONPATH": root},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(20)


def frame(number: int, unsent: int) -> bytes:
    return wire.encode(
        wire.FrameResult(
            pipeline="street",
            frame=number,
            mono_ns=time.monotonic_ns(),
            size=(768, 576),
            engine="e",
            latency_ms=1.0,
            objects=(wire.Box(box=(1.0, 2.0, 3.0, 4.0), score=0.5, label="person", class_=0),),
            unsent=unsent,
        )
    )


def feed(sender: Sender, numbers: range, rate_hz: float = 500.0) -> int:
    """Send results as a runtime would; returns how many the link did not take."""
    lost = 0
    start = time.monotonic()
    for index, number in enumerate(numbers):
        time.sleep(max(0.0, start + index / rate_hz - time.monotonic()))
        lost += not sender.send(frame(number, lost))
    while not sender.flush():
        time.sleep(0.005)
    return lost


def results(observer: Observer) -> list[wire.ResultMessage]:
    return [wire.decode(wire.ResultMessage, body) for body in observer.on(RESULTS)]


def last_health(bodies: list[bytes]) -> wire.AgentReport:
    return wire.decode(wire.HealthMessage, bodies[-1]).agent


def states(bodies: list[bytes]) -> list[tuple[bool, str]]:
    read = [wire.decode(wire.StatusMessage, body) for body in bodies]
    return [(status.online, status.reason) for status in read]


def test_what_is_received_is_what_an_observer_gets(tmp_path: Path) -> None:
    link = tmp_path / "agent.sock"
    with (
        running(tmp_path) as broker,
        observing(broker.port) as observer,
        agent(broker.port, link) as process,
    ):
        observer.wait_for(STATUS)
        with Sender(link) as sender:
            assert feed(sender, range(500)) == 0
        observer.wait_for(RESULTS, 500)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        observer.wait_for(STATUS, 2)
        got = [wire.decode(wire.ResultMessage, body) for body in observer.on(RESULTS)]
        told = last_health(observer.on(HEALTH))
        assert [result.frame for result in got] == list(range(500))
        assert told.published == told.received == 500
        assert (told.unsent, told.limited, told.pending, told.link_dropped) == (0, 0, 0, 0)
        assert told.rss_bytes is not None
        assert told.rss_bytes < 60e6
        assert states(observer.on(STATUS)) == [(True, "connected"), (False, "stopped")]
        # A captured frame is never from the future, and not from long ago.
        assert all(0 <= time.time() - result.time < 120 for result in got)


def test_what_a_dead_broker_missed_comes_when_it_is_back(tmp_path: Path) -> None:
    link = tmp_path / "agent.sock"
    with (
        running(tmp_path) as broker,
        observing(broker.port) as observer,
        agent(broker.port, link) as process,
        Sender(link) as sender,
    ):
        observer.wait_for(STATUS)
        lost = feed(sender, range(200))
        observer.wait_for(RESULTS, 200)
        broker.stop()
        lost += feed(sender, range(200, 400))
        broker.start()
        observer.wait_ready()
        lost += feed(sender, range(400, 600))
        sender.close()
        assert lost == 0
        # What the broker had in flight when it died may come twice.
        while set(frames := [r.frame for r in results(observer)]) < set(range(600)):
            observer.wait_for(RESULTS, len(frames) + 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        observer.wait_for(STATUS, 3)
        told = last_health(observer.on(HEALTH))
        assert told.received == 600 == told.published
        assert (told.unsent, told.reconnects) == (0, 1)
        waited = [result.frame for result in results(observer) if result.historical]
        assert waited == sorted(waited)
        assert set(waited) >= set(range(210, 390))


def test_what_a_killed_agent_had_stored_is_sent_by_the_next(tmp_path: Path) -> None:
    link = tmp_path / "agent.sock"
    store = tmp_path / "state" / "outbox" / "cam-1.db-wal"
    with running(tmp_path) as broker, observing(broker.port) as observer:
        broker.stop()
        with agent(broker.port, link) as process, Sender(link) as sender:
            while not sender.send(frame(0, 0)):
                time.sleep(0.02)
            feed(sender, range(1, 300))
            sender.close()
            size, deadline = -1, time.monotonic() + 60
            while size != (size := store.stat().st_size if store.exists() else -2):
                assert time.monotonic() < deadline
                time.sleep(2.5)
            process.kill()
            process.wait(20)
        broker.start()
        observer.wait_ready()
        with agent(broker.port, link) as process:
            observer.wait_for(RESULTS, 300)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        got = results(observer)
        assert [result.frame for result in got] == list(range(300))
        assert {result.historical for result in got} == {True}
        observer.wait_for(STATUS, 2)
        after = wire.decode(wire.StatusMessage, observer.on(STATUS)[-1])
        assert {result.epoch for result in got} == {after.epoch - 1}


def test_a_killed_agent_is_told_by_its_last_will_and_late_observers_see_it(tmp_path: Path) -> None:
    with running(tmp_path) as broker, observing(broker.port) as observer:
        with agent(broker.port, tmp_path / "agent.sock") as process:
            observer.wait_for(STATUS)
            process.kill()
            observer.wait_for(STATUS, 2)
        assert states(observer.on(STATUS)) == [(True, "connected"), (False, "lost")]
        with observing(broker.port) as late:
            (message,) = late.wait_for(STATUS)
            assert states([message]) == [(False, "lost")]
            assert late.messages[0].retain
            first, last = (
                wire.decode(wire.StatusMessage, body).epoch for body in observer.on(STATUS)
            )
            assert first == last
        with agent(broker.port, tmp_path / "agent.sock"):
            observer.wait_for(STATUS, 3)
        again = wire.decode(wire.StatusMessage, observer.on(STATUS)[2])
        assert again.online
        assert again.epoch > first


def test_a_second_agent_on_the_same_link_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "agent.sock"
    with (
        running(tmp_path) as broker,
        observing(broker.port) as observer,
        agent(broker.port, link) as first,
    ):
        observer.wait_for(STATUS)
        with agent(broker.port, link) as second:
            assert second.wait(30) != 0
        assert first.poll() is None
        with Sender(link) as sender:
            assert sender.send(frame(0, 0))
        observer.wait_for(RESULTS)
