"""A bare acknowledgement takes the short way, and says the same as the long one."""

from __future__ import annotations

import pytest
from paho.mqtt.client import Client
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgetrt.config import BrokerConfig
from edgetrt.mqtt.client import QuickClient, make_client
from edgetrt.mqtt.places import endpoints
from edgetrt.mqtt.settings import Settings

Heard = list[tuple[int, int, bool]]


def told(client: Client, packet: bytes) -> Heard:
    """Number, reason and emptiness of the properties that `on_publish` gets for a PUBACK."""
    heard: Heard = []

    def published(
        _client: Client, _data: object, mid: int, reason: ReasonCode, properties: Properties
    ) -> None:
        heard.append((mid, reason.value, properties.isEmpty()))

    client.on_publish = published
    client._in_packet["packet"] = bytearray(packet)
    client._handle_pubackcomp("PUBACK")
    return heard


@pytest.fixture
def client() -> Client:
    """With one message under way."""
    (endpoint,) = endpoints(BrokerConfig(), "cam-1")
    made = make_client(endpoint, Settings(), None)
    made.publish("a/b", b"payload", qos=1)
    return made


@pytest.mark.parametrize(
    ("packet", "reason"),
    [(b"\0\1", 0), (b"\0\1\x00", 0), (b"\0\1\x10", 0x10), (b"\0\1\x87\0", 0x87)],
)
def test_every_acknowledgement_is_told_with_its_reason_and_once(
    client: Client, packet: bytes, reason: int
) -> None:
    assert isinstance(client, QuickClient)
    assert told(client, packet) == [(1, reason, True)]
    assert told(client, packet) == []
    assert not client._out_messages


def test_an_acknowledgement_of_nothing_is_passed_over(client: Client) -> None:
    assert told(client, b"\0\7") == []
    assert told(client, b"\0\1") == [(1, 0, True)]


def test_paho_still_calls_it_so() -> None:
    # A paho that does not would take the long way everywhere: slower, and right all the same.
    assert "_handle_pubackcomp" in vars(Client)
