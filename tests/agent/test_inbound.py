"""Whatever the broker delivers: dealt with or counted, and the agent goes on as before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgetrt import wire
from edgetrt.agent.control import Control
from edgetrt.agent.inbound import MOST_BYTES, Inbound
from edgetrt.agent.intake import Intake
from edgetrt.config import PipelineSettings
from edgetrt.errors import EdgetrtError
from edgetrt.types import Exchange
from tests.agent.asking import Asker
from tests.fakes import FakeMessage, FakeTransport

words = st.text(max_size=20)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


def inbound(**handlers: Callable[[Any], None]) -> Inbound:
    return Inbound("cam-1", FakeTransport(), handlers)


def test_a_message_goes_to_who_deals_with_it() -> None:
    taken: list[bytes] = []
    part = inbound(cmd=lambda message: taken.append(message.payload))
    part.take(FakeMessage(wire.cmd("cam-1"), b"x"))
    assert (taken, part.refused) == ([b"x"], 0)


@pytest.mark.parametrize(
    "topic",
    [
        wire.cmd("cam-2"),
        wire.desired("cam-1"),  # nobody handles it here
        wire.status("cam-1"),
        "edgetrt/v1/d/cam-1/other",
        "edgetrt/v2/d/cam-1/cmd",
        "",
        "\x00",
    ],
)
def test_what_is_not_for_us_is_counted(topic: str) -> None:
    part = inbound(cmd=lambda _: None)
    part.take(FakeMessage(topic, b"x"))
    assert part.refused == 1


@pytest.mark.parametrize("name", sorted(MOST_BYTES))
def test_too_long_a_message_is_not_even_read(name: str) -> None:
    taken: list[bytes] = []
    topic = {
        "cmd": wire.cmd("cam-1"),
        "desired": wire.desired("cam-1"),
        "announce": wire.ANNOUNCE,
        "chunk": wire.chunk("cam-1"),
        "status": wire.status("cam-1"),
    }
    part = inbound(**{name: lambda message: taken.append(message.payload)})
    part.take(FakeMessage(topic[name], b"x" * MOST_BYTES[name]))
    part.take(FakeMessage(topic[name], b"x" * (MOST_BYTES[name] + 1)))
    assert (len(taken), part.refused) == (1, 1)


@pytest.mark.parametrize("fault", [EdgetrtError("no"), ZeroDivisionError("a fault of ours")])
def test_a_handler_that_fails_ends_nothing(fault: Exception) -> None:
    def handler(_: Any) -> None:
        raise fault

    part = inbound(cmd=handler)
    part.take(FakeMessage(wire.cmd("cam-1"), b"x"))
    assert part.refused == 1


def test_a_message_is_acknowledged_when_it_was_dealt_with() -> None:
    async def run() -> None:
        transport = FakeTransport()
        seen: list[int] = []
        part = Inbound("cam-1", transport, {"cmd": lambda _: seen.append(transport.taken)})
        running = asyncio.create_task(part.run())
        for _ in range(3):
            transport.deliver(wire.cmd("cam-1"), b"x")
        for _ in range(100):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        assert (seen, transport.taken) == ([0, 1, 2], 3)

    asyncio.run(run())


VALID = [
    wire.encode(wire.CommandMessage(id="a1", command="bench", arguments={"pipeline": "street"})),
    wire.encode(wire.CommandMessage(id="a2", command="restart-pipeline", by="x")),
    wire.encode(wire.DesiredMessage(generation=3, settings={"street": {"score": 0.5}})),
    wire.encode(wire.AnnounceMessage(about="repository")),
]


class Target:
    """A device that takes everything, and how it was before."""

    def __init__(self, folder: Path) -> None:
        self.asker = Asker(folder, table={})  # nothing can be done, so nothing may change
        self.told: list[wire.Struct] = []
        self.control = Control(None, lambda message: not self.told.append(message), lambda: None)
        self.control.settle(2, {"street": PipelineSettings(score=0.3)}, signed=False)
        self.inbound = Inbound(
            "cam-1",
            self.asker.transport,
            {"cmd": self.asker.answering.take, "desired": self.control.take},
        )
        self.count = 0

    async def take(self, topic: str, payload: bytes, exchange: Exchange) -> None:
        async with self.asker.transport:
            self.inbound.take(FakeMessage(topic, payload, exchange=exchange))
            await self.asker.rest()
        self.count += 1


def fuzz(folder: Path, topic: str, payload: bytes, exchange: Exchange) -> Target:
    target = Target(folder)
    asyncio.run(target.take(topic, payload, exchange))
    answered = target.asker.answering.answered
    # A message is refused without a word, or refused with one: no other way is left by an empty table.
    assert all(not reply.ok for reply in target.asker.replies)
    assert target.inbound.refused + answered <= 1
    assert all(t.startswith("edgetrt/v1/u/cam-1/reply/") for t in target.asker.topics)
    assert (target.asker.ran, target.asker.asked) == ([], [])
    return target


exchanges = st.builds(Exchange, st.text(max_size=40), st.binary(max_size=20))
topics = st.sampled_from([wire.cmd("cam-1"), wire.desired("cam-1"), wire.ANNOUNCE])
relaxed = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


LINK = [
    wire.encode(wire.GrantMessage(pipeline="street", rate_hz=1.0)),
    wire.encode(wire.AnswerMessage(pipeline="street", what="snapshot", result={"file": "x"})),
    b'{"kind":"frame","v":1,"pipeline":"street","frame":1,"mono_ns":1,"size":[1,1],"engine":"e",'
    b'"latency_ms":1.0,"objects":[]}',
    b'{"kind":"pipeline","v":1,"pipeline":"street","state":"running","backend":"b","engine":"e",'
    b'"fps":1.0,"latency":null,"stages":{},"counters":{}}',
]


class Datagrams:
    """A local link on which these wait."""

    refused = 0

    def __init__(self, *waiting: bytes) -> None:
        self._waiting = list(waiting)

    def receive(self) -> bytes | None:
        return self._waiting.pop(0) if self._waiting else None


class Results:
    """A publisher that counts."""

    count = 0

    def result(self, topic: str, frame: wire.FrameResult) -> None:
        self.count += 1


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.sampled_from(LINK), st.data())
def test_any_datagram_of_the_local_link_is_counted_or_is_what_it_says(
    datagram: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(datagram)
    for _ in range(data.draw(st.integers(0, 3)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    publisher = Results()
    link: Any = Datagrams(bytes(damaged))
    intake = Intake("cam-1", link, publisher, None, lambda: 1, lambda _: None)  # type: ignore[arg-type]
    intake.read()
    assert intake.malformed + publisher.count + len(intake.pipelines.reports(1)) == 1


@relaxed
@given(topics, st.binary(max_size=300), exchanges)
def test_any_bytes_are_counted_and_change_nothing(
    tmp_path: Path, topic: str, payload: bytes, exchange: Exchange
) -> None:
    target = fuzz(tmp_path, topic, payload, exchange)
    if payload:
        assert target.inbound.refused == 1
    assert target.control.wanted.generation == 2
    assert target.control.wanted.settings == {"street": PipelineSettings(score=0.3)}


@relaxed
@given(topics, st.sampled_from(VALID), st.data(), exchanges)
def test_damaged_messages_are_refused_or_mean_what_they_say(
    tmp_path: Path, topic: str, valid: bytes, data: st.DataObject, exchange: Exchange
) -> None:
    payload = bytearray(valid)
    for _ in range(data.draw(st.integers(0, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    payload = payload[: data.draw(st.integers(0, len(payload)))]
    target = fuzz(tmp_path, topic, bytes(payload), exchange)
    wanted = target.control.wanted
    if wanted.generation != 2:  # a change that is a whole, newer message
        read = wire.decode(wire.DesiredMessage, bytes(payload))
        assert (topic, wanted.generation) == (wire.desired("cam-1"), read.generation)
        assert msgspec.convert(read.settings, dict[str, PipelineSettings]) == wanted.settings


@relaxed
@given(
    st.fixed_dictionaries(
        {"v": st.just(1), "kind": st.sampled_from(["command", "desired", "frame", "x"])},
        optional={
            "id": anything,
            "command": anything,
            "arguments": anything,
            "expires": anything,
            "by": anything,
            "generation": anything,
            "settings": anything,
        },
    ),
    topics,
    exchanges,
)
def test_anything_in_the_right_places_is_refused_or_read(
    tmp_path: Path, body: dict[str, Any], topic: str, exchange: Exchange
) -> None:
    target = fuzz(tmp_path, topic, msgspec.json.encode(body), exchange)
    for settings_of in target.control.wanted.settings.values():
        assert isinstance(settings_of, PipelineSettings)
