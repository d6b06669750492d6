"""A device asked over a real broker: the agent as a process, a runtime on its link, an asker outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgetrt import wire
from edgetrt.clock import SystemClock
from edgetrt.link import Receiver, Sender
from edgetrt.runtime.pool import PipelinePool
from edgetrt.runtime.requests import Means, Requests
from edgetrt.runtime.service import Service
from edgetrt.types import Result
from tests.broker import Observer, observing, running
from tests.runtime.test_service import job

pytestmark = [pytest.mark.broker, pytest.mark.slow]

CMD, DESIRED = wire.cmd("cam-1"), wire.desired("cam-1")
REPORTED = wire.reported("cam-1")

PROGRAM = """
import sys
from functools import partial
from pathlib import Path
from edgetrt.agent.process import run_agent
from edgetrt.config import BrokerConfig, ControlConfig, DeviceConfig, PublishConfig
from edgetrt.mqtt import Backoff, MqttTransport, Settings
config = DeviceConfig(
    device="cam-1",
    broker=BrokerConfig(port=int(sys.argv[1]), spread_s=0.0),
    publish=PublishConfig(health_s=0.2, result_hz=1.0),
    control=ControlConfig(unsigned_settings=True),
)
quick = {"settings": Settings(will_delay_s=0), "backoff": Backoff(0.05, 0.2)}
link = Path(sys.argv[2])
connect = partial(MqttTransport, config.broker, **quick)
code = run_agent(config, link, connect, link.parent / "state")
assert not {"numpy", "PIL"} & set(sys.modules)
sys.exit(code)
"""


@contextmanager
def agent(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(port), str(folder / "agent.sock")],
        env={**os.environ, "PYTHONPATH": str(Path(wire.__file__).parents[2])},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(20)


@contextmanager
def runtime(folder: Path) -> Iterator[Service]:
    """A runtime with one pipeline, `a`, whose pictures are words."""

    def draw(result: Result, limit: int) -> bytes:
        return b"a picture"

    stop, jobs = threading.Event(), {"a": job("a", rate_hz=100.0)}
    with Sender(folder / "agent.sock") as sender, Receiver(folder / "runtime.sock") as inbox:
        pool = PipelinePool()
        service = Service(pool, lambda: jobs, sender.send, inbox, SystemClock())
        means = Means(folder, draw, lambda *_: [sys.executable, "-c", "print('{}')"], pool.get)
        requests = Requests(pool, service.answer, means)
        service.handle(wire.SettingsMessage, requests.settle)
        service.handle(wire.AskMessage, requests.ask)
        thread = threading.Thread(target=service.run, args=(stop,))
        thread.start()
        try:
            yield service
        finally:
            stop.set()
            thread.join(20)


class Asker:
    """Publishes as any MQTT 5 client would, with nothing of ours."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def send(
        self,
        name: str,
        command_id: str,
        response_topic: str = "",
        retain: bool = False,
        **said: Any,
    ) -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.MessageExpiryInterval = 60
        properties.CorrelationData = command_id.encode()
        if response_topic:
            properties.ResponseTopic = response_topic
        body = wire.encode(wire.CommandMessage(id=command_id, command=name, **said))
        self._observer.client.publish(CMD, body, qos=1, retain=retain, properties=properties)

    def reply(self, command_id: str) -> wire.ReplyMessage:
        (body,) = self._observer.wait_for(wire.reply("cam-1", command_id))
        return wire.decode(wire.ReplyMessage, body)

    def ask(self, name: str, command_id: str, **said: Any) -> wire.ReplyMessage:
        self.send(name, command_id, **said)
        return self.reply(command_id)

    def settle(self, payload: bytes, retain: bool = True) -> None:
        self._observer.client.publish(DESIRED, payload, qos=1, retain=retain)

    def until(self, met: Callable[[wire.ReportedMessage], bool]) -> wire.ReportedMessage:
        """The first `reported` that meets it."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for body in self._observer.on(REPORTED):
                read = wire.decode(wire.ReportedMessage, body)
                if met(read):
                    return read
            time.sleep(0.05)
        raise AssertionError("it was not reported")


def a_is(generation: int) -> Callable[[wire.ReportedMessage], bool]:
    return lambda read: any(one.generation == generation for one in read.pipelines)


def test_commands_over_a_broker(tmp_path: Path) -> None:
    with (
        running(tmp_path) as broker,
        observing(broker.port) as observer,
        agent(broker.port, tmp_path) as process,
    ):
        observer.wait_for(wire.status("cam-1"))
        asker = Asker(observer)
        assert asker.ask("ping", "r1").ok
        asker.send("ping", "r2", response_topic=wire.reply("cam-1", "mine"))
        observer.wait_for(wire.reply("cam-1", "mine"))
        arrived = next(m for m in observer.messages if m.topic.endswith("/mine"))
        assert arrived.properties.CorrelationData == b"r2"
        stray = asker.ask("ping", "r3", response_topic="edgetrt/v1/u/cam-2/status")
        assert stray.code == "topic"
        assert observer.on("edgetrt/v1/u/cam-2/status") == []
        assert asker.ask("ping", "r4", retain=True).ok  # it came live; only a kept one is refused
        asker.send("ping", "r1")
        no_runtime = asker.ask("restart-pipeline", "r5", arguments={"pipeline": "a"})
        assert (no_runtime.code, "runtime" in no_runtime.error) == ("failed", True)
        for payload in (b"", b"\xff", b"{}", b"[" * 20_000, b"x" * 100_000):
            observer.client.publish(CMD, payload, qos=1)
        assert asker.ask("logs", "r6", arguments={"lines": 5}).ok
        assert len(observer.on(wire.reply("cam-1", "r1"))) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        observer.wait_for(wire.status("cam-1"), 2)
        told = wire.decode(wire.HealthMessage, observer.on(wire.health("cam-1"))[-1]).agent
        assert (told.commands, told.refused) == (6, 5)
        assert told.rss_bytes is not None
        assert told.rss_bytes < 60e6
        # The broker keeps r4 for whoever subscribes; the next agent must not do it.
        with agent(broker.port, tmp_path):
            observer.wait_for(wire.reply("cam-1", "r4"), 2)
            again = wire.decode(wire.ReplyMessage, observer.on(wire.reply("cam-1", "r4"))[1])
            assert again.code == "retained"


def test_settings_and_pipelines_over_a_broker(tmp_path: Path) -> None:
    with (
        running(tmp_path) as broker,
        observing(broker.port) as observer,
        agent(broker.port, tmp_path) as process,
    ):
        observer.wait_for(wire.status("cam-1"))
        asker = Asker(observer)
        with runtime(tmp_path) as service:
            snapshot = asker.ask("snapshot", "s1", arguments={"pipeline": "a"})
            assert (snapshot.ok, snapshot.result["data"]) == (True, "YSBwaWN0dXJl")
            assert list(tmp_path.glob("*.jpg")) == []
            assert asker.ask("restart-pipeline", "s2", arguments={"pipeline": "a"}).ok
            body = wire.DesiredMessage(generation=3, settings={"a": {"rate_hz": 50.0}, "b": {}})
            asker.settle(wire.encode(body))
            read = asker.until(a_is(3))
            assert (read.generation, read.pipelines[0].settings) == (3, {"rate_hz": 50.0})
            assert read.unsettled == {"b": "no pipeline of that name reports here"}
            asker.settle(b"\xff\x00", retain=False)
            stale = wire.DesiredMessage(generation=2, settings={"a": {"rate_hz": 1.0}})
            asker.settle(wire.encode(stale), retain=False)
            assert asker.ask("ping", "s3").ok
            supervisor = service.pool.get("a")
            assert supervisor is not None
            assert supervisor.granted.rate_hz == 50.0
        # Neither a new runtime nor a new agent has to be told again.
        with runtime(tmp_path) as service:
            wait_until(lambda: rate_of(service) == 50.0)
            process.kill()
            process.wait(20)
            broker.stop()
            with agent(broker.port, tmp_path), runtime_again(service, tmp_path) as again:
                wait_until(lambda: rate_of(again) == 50.0)


@contextmanager
def runtime_again(before: Service, folder: Path) -> Iterator[Service]:
    """The same runtime, whose pipeline forgets what it was told."""
    supervisor = before.pool.get("a")
    assert supervisor is not None
    from edgetrt.config import PipelineSettings

    supervisor.settle(0, PipelineSettings())
    assert rate_of(before) == 100.0
    yield before


def rate_of(service: Service) -> float | None:
    supervisor = service.pool.get("a")
    return None if supervisor is None else supervisor.granted.rate_hz


def wait_until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.02)
