"""Brokers that refuse, say nothing, talk nonsense or have little room."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

import pytest

from edgetrt.config import BrokerConfig
from edgetrt.errors import TransportError
from edgetrt.mqtt import Backoff, MqttTransport, Settings
from edgetrt.mqtt.reasons import unreachable
from edgetrt.types import ConnectionState
from tests.broker import ScriptedBroker, free_port

SUCCESS = b"\x20\x03\x00\x00\x00"
TOPIC = "edgetrt/v1/u/cam-1/health"
QUICK = Settings(connect_timeout_s=2.0, connack_timeout_s=0.2, will_delay_s=0)


def connack(reason: int = 0, properties: bytes = b"") -> bytes:
    body = bytes([0, reason, len(properties)]) + properties
    return bytes([0x20, len(body)]) + body


def transport(port: int) -> MqttTransport:
    return MqttTransport(
        BrokerConfig(port=port), "cam-1", settings=QUICK, backoff=Backoff(0.01, 0.02)
    )


async def wait_for(mqtt: MqttTransport, wanted: Callable[[ConnectionState], bool]) -> str:
    async for state in mqtt.states():
        if wanted(state):
            return state.reason
    raise AssertionError("the states ended")


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario(), 60)

    asyncio.run(bounded())


async def first_reason(mqtt: MqttTransport, word: str) -> str:
    async with mqtt:
        return await wait_for(
            mqtt, lambda state: word in state.reason and "not connected yet" not in state.reason
        )


@pytest.mark.parametrize("announced", [1, 3, 20])
def test_receive_maximum_is_never_exceeded_and_only_qos_1_is_written(announced: int) -> None:
    async def scenario() -> None:
        properties = b"\x21" + announced.to_bytes(2, "big")
        async with ScriptedBroker(connack(0, properties), hold=announced) as broker:
            async with transport(broker.port) as mqtt:
                await wait_for(mqtt, lambda state: state.connected)
                await asyncio.gather(*(mqtt.publish(TOPIC, b"x") for _ in range(60)))
            assert broker.most == announced
            assert broker.qos == [1] * 60

    run(scenario)


def test_a_cancelled_publish_keeps_its_place_in_the_window() -> None:
    async def scenario() -> None:
        async with ScriptedBroker(connack(0, b"\x21\x00\x01"), hold=1) as broker:
            async with transport(broker.port) as mqtt:
                await wait_for(mqtt, lambda state: state.connected)
                for _ in range(10):
                    task = asyncio.create_task(mqtt.publish(TOPIC, b"x"))
                    await asyncio.sleep(0.001)
                    task.cancel()
                await mqtt.publish(TOPIC, b"last")
            assert broker.most == 1

    run(scenario)


def test_a_packet_larger_than_the_broker_takes_is_refused_here() -> None:
    async def scenario() -> None:
        properties = b"\x27" + (1000).to_bytes(4, "big")
        async with ScriptedBroker(connack(0, properties)) as broker, transport(broker.port) as mqtt:
            await wait_for(mqtt, lambda state: state.connected)
            with pytest.raises(TransportError, match="1001 bytes, the broker takes 1000"):
                await mqtt.publish(TOPIC, b"x" * 1001)
            await mqtt.publish(TOPIC, b"small")

    run(scenario)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0x86, "Bad user name or password"),
        (0x87, "Not authorized"),
        (0x84, "Unsupported protocol version"),
        (0x8A, "Banned"),
    ],
)
def test_a_refusal_is_told_with_its_code(code: int, words: str) -> None:
    async def scenario() -> None:
        async with ScriptedBroker(connack(code)) as broker:
            reason = await first_reason(transport(broker.port), "refused")
            assert words in reason
            assert f"0x{code:02X}" in reason
            assert str(broker.port) in reason

    run(scenario)


def test_a_broker_of_the_older_protocol_is_told_apart() -> None:
    async def scenario() -> None:
        async with ScriptedBroker(b"\x20\x02\x00\x01") as broker:
            assert "MQTT 5" in await first_reason(transport(broker.port), "refused")

    run(scenario)


def test_a_broker_that_says_nothing_is_given_up() -> None:
    async def scenario() -> None:
        async with ScriptedBroker(b"") as broker:
            assert "said nothing" in await first_reason(transport(broker.port), "nothing")

    run(scenario)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00" * 40,
        b"\x20\xff\xff\xff\xff\x01",
    ],
)
def test_nonsense_instead_of_connack_ends_the_attempt_only(nonsense: bytes) -> None:
    async def scenario() -> None:
        async with ScriptedBroker(nonsense) as broker:
            reason = await first_reason(transport(broker.port), "broker")
            words = ("before it answered", "unreadable packet", "said nothing")
            assert any(word in reason for word in words)

    run(scenario)


@pytest.mark.parametrize(
    "nonsense", [b"\x30\x05\x00", b"\x30\x04\xff\xff\xff\xff", b"\xf0\x00", b"\x90\x01\x01"]
)
def test_nonsense_later_ends_the_connection_only(nonsense: bytes) -> None:
    async def scenario() -> None:
        async with ScriptedBroker(SUCCESS + nonsense) as broker, transport(broker.port) as mqtt:
            await wait_for(mqtt, lambda state: state.connected)
            broker.connack = SUCCESS
            broker.drop()
            await wait_for(mqtt, lambda state: not state.connected)
            await wait_for(mqtt, lambda state: state.connected)
            await mqtt.publish(TOPIC, b"after")
            assert broker.qos[-1] == 1

    run(scenario)


def test_a_closed_port_is_told_once_however_often_it_is_tried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        async with transport(free_port()) as mqtt:
            await wait_for(mqtt, lambda state: "refuses connections" in state.reason)
            await asyncio.sleep(0.3)

    with caplog.at_level(logging.WARNING, logger="edgetrt.mqtt"):
        run(scenario)
    assert len(caplog.records) == 1
    assert "refuses connections. Is the broker running" in caplog.text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "cannot be resolved"),
        (TimeoutError("timed out"), "no answer"),
        (OSError(101, "Network is unreachable"), "Network is unreachable"),
        (ValueError("label too long"), "label too long"),
    ],
)
def test_why_nothing_could_be_opened(error: OSError | ValueError, words: str) -> None:
    assert words in unreachable(error, "cam.example:1883").message


def test_leaving_while_connecting_ends_at_once() -> None:
    async def scenario() -> None:
        # A listener that never accepts: the handshake of TCP ends, and nothing comes.
        with socket.create_server(("127.0.0.1", 0)) as silent:
            async with transport(silent.getsockname()[1]) as mqtt:
                await asyncio.sleep(0)
            assert not mqtt.state.connected

    run(scenario)


@pytest.mark.parametrize("granted", [True, False])
def test_a_broker_that_lets_us_only_publish_gets_what_we_publish(
    granted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with ScriptedBroker(SUCCESS, suback=1 if granted else 0x87) as broker:
            mqtt = MqttTransport(
                BrokerConfig(port=broker.port),
                "cam-1",
                subscriptions=("edgetrt/v1/d/cam-1/cmd", "edgetrt/v1/d/all/announce"),
                settings=QUICK,
                backoff=Backoff(0.01, 0.02),
            )
            async with mqtt:
                await wait_for(mqtt, lambda state: state.connected)
                await mqtt.publish(TOPIC, b"x")
                broker.drop()
                await wait_for(mqtt, lambda state: not state.connected)
                await wait_for(mqtt, lambda state: state.connected)
                await mqtt.publish(TOPIC, b"y")
            assert broker.qos == [1, 1]

    with caplog.at_level(logging.WARNING, logger="edgetrt.mqtt"):
        run(scenario)
    assert ("refused it" in caplog.text) is not granted
