"""What every transport promises: the fake, and MQTT to a real mosquitto."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from edgetrt.config import BrokerConfig
from edgetrt.errors import NotConnectedError, TransportError
from edgetrt.mqtt import Backoff, MqttTransport, Settings
from edgetrt.ports import Transport
from tests.broker import Broker, Observer, observing, running
from tests.fakes import FakeTransport

TOPIC = "edgetrt/v1/u/cam-1/result/street"
FORBIDDEN = "edgetrt/v1/u/other/status"
DOWN = "edgetrt/v1/d/cam-1/cmd"


class Rig(Protocol):
    """A transport and the far side of it."""

    @property
    def transport(self) -> Transport: ...
    async def cut(self) -> None: ...
    async def restore(self) -> None: ...
    async def deliver(self, payload: bytes) -> None: ...
    async def arrived(self, topic: str, count: int) -> list[bytes]: ...


class FakeRig:
    def __init__(self) -> None:
        self.transport = FakeTransport(refuse=(FORBIDDEN,))

    async def cut(self) -> None:
        self.transport.go_offline()

    async def restore(self) -> None:
        self.transport.go_online()

    async def deliver(self, payload: bytes) -> None:
        self.transport.deliver(DOWN, payload)

    async def arrived(self, topic: str, count: int) -> list[bytes]:
        bodies = [body for on, body, _ in self.transport.published if on == topic]
        assert len(bodies) >= count
        return bodies


class MqttRig:
    def __init__(self, broker: Broker, observer: Observer) -> None:
        self._broker = broker
        self._observer = observer
        self.transport = MqttTransport(
            BrokerConfig(port=broker.port),
            "cam-1",
            subscriptions=("edgetrt/v1/d/cam-1/#",),
            settings=Settings(will_delay_s=0),
            backoff=Backoff(0.02, 0.1),
        )

    async def cut(self) -> None:
        self._broker.stop()

    async def restore(self) -> None:
        await asyncio.to_thread(self._broker.start)
        await asyncio.to_thread(self._observer.wait_ready)

    async def deliver(self, payload: bytes) -> None:
        self._observer.client.publish(DOWN, payload, qos=1)

    async def arrived(self, topic: str, count: int) -> list[bytes]:
        return await asyncio.to_thread(self._observer.wait_for, topic, count)


@pytest.fixture(params=["fake", pytest.param("mqtt", marks=pytest.mark.broker)])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Rig]]:
    """Makes the rig inside the event loop of the test."""
    if request.param == "fake":
        yield FakeRig
        return
    access = tmp_path / "acl"
    access.write_text(f"topic deny {FORBIDDEN}\ntopic readwrite edgetrt/#\n")
    with running(tmp_path, f"acl_file {access}") as broker, observing(broker.port) as observer:
        yield lambda: MqttRig(broker, observer)


def drive(make: Callable[[], Rig], scenario: Callable[[Rig], Awaitable[None]]) -> None:
    """Run a scenario with an entered, connected transport."""

    async def run() -> None:
        rig = make()
        async with rig.transport:
            await until(rig.transport, connected=True)
            await asyncio.wait_for(scenario(rig), 60)

    asyncio.run(run())


async def until(transport: Transport, connected: bool) -> str:
    """Wait for a state; returns its reason."""
    async for state in transport.states():
        if state.connected == connected:
            return state.reason
    raise AssertionError("the states ended")


def test_what_is_published_arrives(rig: Callable[[], Rig]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.transport.publish(TOPIC, b"one")
        await rig.transport.publish(TOPIC, b"two", expiry_s=60)
        assert await rig.arrived(TOPIC, 2) == [b"one", b"two"]

    drive(rig, scenario)


def test_many_at_a_time_arrive_in_order(rig: Callable[[], Rig]) -> None:
    bodies = [str(number).encode() for number in range(300)]

    async def scenario(rig: Rig) -> None:
        await asyncio.gather(*(rig.transport.publish(TOPIC, body) for body in bodies))
        assert await rig.arrived(TOPIC, 300) == bodies

    drive(rig, scenario)


def test_posting_does_not_wait_and_tells_each_outcome_once(rig: Callable[[], Rig]) -> None:
    async def scenario(rig: Rig) -> None:
        outcomes: list[tuple[int, TransportError | None]] = []
        over = asyncio.Event()

        def done(number: int, error: TransportError | None) -> None:
            outcomes.append((number, error))
            if len(outcomes) == 300:
                over.set()

        for number in range(300):
            topic = FORBIDDEN if number == 150 else TOPIC
            rig.transport.post(topic, str(number).encode(), partial(done, number))
        assert outcomes == []
        await over.wait()
        assert [number for number, _ in outcomes] == list(range(300))
        assert [number for number, error in outcomes if error is not None] == [150]
        assert "refused" in str(outcomes[150][1])
        arrived = [int(body) for body in await rig.arrived(TOPIC, 299)]
        assert arrived == [number for number in range(300) if number != 150]

    drive(rig, scenario)


def test_what_was_posted_is_told_when_the_connection_breaks(rig: Callable[[], Rig]) -> None:
    async def scenario(rig: Rig) -> None:
        outcomes: list[TransportError | None] = []
        await rig.cut()
        with contextlib.suppress(NotConnectedError):
            for _ in range(200):
                rig.transport.post(TOPIC, b"x", outcomes.append)
        await until(rig.transport, connected=False)
        with pytest.raises(NotConnectedError):
            rig.transport.post(TOPIC, b"x", outcomes.append)
        assert all(o is None or isinstance(o, NotConnectedError) for o in outcomes)
        assert len(outcomes) in (0, 200)

    drive(rig, scenario)


def test_a_refused_topic_raises_and_the_connection_stays(rig: Callable[[], Rig]) -> None:
    async def scenario(rig: Rig) -> None:
        with pytest.raises(TransportError, match="refused") as caught:
            await rig.transport.publish(FORBIDDEN, b"x")
        assert not isinstance(caught.value, NotConnectedError)
        await rig.transport.publish(TOPIC, b"still here")
        assert await rig.arrived(TOPIC, 1) == [b"still here"]

    drive(rig, scenario)


def test_messages_come_in_order(rig: Callable[[], Rig]) -> None:
    async def scenario(rig: Rig) -> None:
        for body in (b"1", b"2", b"3"):
            await rig.deliver(body)
        got = []
        async for message in rig.transport.messages():
            assert message.topic == DOWN
            got.append(message.payload)
            if len(got) == 3:
                break
        assert got == [b"1", b"2", b"3"]

    drive(rig, scenario)


def test_offline_raises_and_says_why(rig: Callable[[], Rig]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.cut()
        reason = await until(rig.transport, connected=False)
        assert reason
        assert not rig.transport.state.connected
        with pytest.raises(NotConnectedError, match=TOPIC):
            await rig.transport.publish(TOPIC, b"x")

    drive(rig, scenario)


def test_it_comes_back_by_itself_with_its_subscriptions(rig: Callable[[], Rig]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.cut()
        await until(rig.transport, connected=False)
        await rig.restore()
        await until(rig.transport, connected=True)
        await rig.transport.publish(TOPIC, b"back")
        assert (await rig.arrived(TOPIC, 1))[-1] == b"back"
        await rig.deliver(b"welcome")
        async for message in rig.transport.messages():
            assert message.payload == b"welcome"
            break

    drive(rig, scenario)


def test_after_leaving_nothing_is_published(rig: Callable[[], Rig]) -> None:
    async def run() -> None:
        made = rig()
        async with made.transport:
            await until(made.transport, connected=True)
        assert not made.transport.state.connected
        with pytest.raises(NotConnectedError):
            await made.transport.publish(TOPIC, b"x")

    asyncio.run(run())
