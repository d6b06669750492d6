"""The access list of a site: what a device may say and hear, by what is *delivered*.

mosquitto grants a subscription that the list forbids, and filters at the delivery. So every test watches
what arrives: at a controller that may hear everything, or at the device that should hear nothing.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgetrt.config import Name
from tests.site import CONTROLLER, HOME_ASSISTANT, Site, site

pytestmark = pytest.mark.broker

GRANTED, NOT_AUTHORIZED = 1, 0x87


class Party:
    """A client with its own certificate, and nothing of ours."""

    def __init__(self, at: Site, name: str, client_id: str = "") -> None:
        self.messages: list[MQTTMessage] = []
        self.disconnected = threading.Event()
        self._acknowledged: dict[int, int] = {}
        self._subacks: dict[int, list[int]] = {}
        self._news = threading.Condition()
        self.client = Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5
        )
        self.client.tls_set_context(at.context(name))
        self.client.on_message = self._on_message
        self.client.on_publish = self._on_publish
        self.client.on_subscribe = self._on_subscribe
        connected = threading.Event()
        self.client.on_connect = lambda *_: connected.set()
        self.client.on_disconnect = lambda *_: self.disconnected.set()
        self.client.connect("127.0.0.1", at.port, keepalive=20)
        self.client.loop_start()
        assert connected.wait(20)

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        with self._news:
            self.messages.append(message)
            self._news.notify_all()

    def _on_publish(self, _client: Client, _data: object, mid: int, reason: Any, _: object) -> None:
        with self._news:
            self._acknowledged[mid] = reason.value
            self._news.notify_all()

    def _on_subscribe(
        self, _client: Client, _data: object, mid: int, reasons: list[Any], _: object
    ) -> None:
        with self._news:
            self._subacks[mid] = [reason.value for reason in reasons]
            self._news.notify_all()

    def subscribe(self, topic: str) -> int:
        """Subscribe; returns the SUBACK's reason code."""
        _, mid = self.client.subscribe(topic, qos=1)
        with self._news:
            assert self._news.wait_for(lambda: mid in self._subacks, 20)
        return self._subacks[mid or 0][0]

    def say(self, topic: str, body: bytes = b"x", **options: Any) -> int:
        """Publish with QoS 1; returns the PUBACK's reason code."""
        mid = self.client.publish(topic, body, qos=1, **options).mid
        with self._news:
            assert self._news.wait_for(lambda: mid in self._acknowledged, 20)
        return self._acknowledged[mid]

    def heard(self, last: str) -> list[str]:
        """Topics that arrived, once one with the body `last` has."""
        with self._news:
            assert self._news.wait_for(
                lambda: any(m.payload == last.encode() for m in self.messages), 20
            ), [m.topic for m in self.messages]
        return [m.topic for m in self.messages if m.payload != last.encode()]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@contextmanager
def party(at: Site, name: str, client_id: str = "") -> Iterator[Party]:
    made = Party(at, name, client_id)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("site")) as made:
        yield made


FOREIGN = (
    "edgetrt/v1/u/cam-2/status",
    "edgetrt/v1/u/cam-2/result/street",
    "edgetrt/v1/u/cam-2/reply/1",
    "edgetrt/v1/u/all/event",
    "edgetrt/v1/u",
    "edgetrt/v1/d/cam-1/desired",
    "edgetrt/v1/d/cam-1/cmd",
    "edgetrt/v1/d/cam-2/desired",
    "edgetrt/v1/d/cam-2/cmd",
    "edgetrt/v1/d/all/announce",
    "edgetrt/v1/r/controller/cam-1/1",
    "edgetrt/v2/u/cam-1/status",
    "homeassistant/device/edgetrt/cam-2/config",
    "homeassistant/sensor/edgetrt/cam-1/config",
    "homeassistant/status",
    "cam-1",
)


def test_a_device_speaks_under_its_own_name_only(here: Site) -> None:
    own = ("edgetrt/v1/u/cam-1/status", "edgetrt/v1/u/cam-1/reply/7", "edgetrt/v1/u/cam-1/log/7")
    with party(here, CONTROLLER) as controller, party(here, "cam-1") as device:
        assert controller.subscribe("edgetrt/#") == GRANTED
        with party(here, HOME_ASSISTANT) as home:
            home.subscribe("homeassistant/#")
            refused = {topic: device.say(topic, b"mine", retain=True) for topic in FOREIGN}
            assert [device.say(topic) for topic in own] == [0, 0, 0]
            device.say("homeassistant/device/edgetrt/cam-1/config", b"last")
            assert home.heard("last") == []
        device.say("edgetrt/v1/u/cam-1/event", b"last")
        assert controller.heard("last") == list(own)
    assert set(refused.values()) == {NOT_AUTHORIZED}
    # Nor did the broker keep any of it for those who come later.
    with party(here, CONTROLLER) as late:
        late.subscribe("edgetrt/#")
        late.say("edgetrt/v1/d/nobody/cmd", b"last")
        assert late.heard("last") == []


def test_what_is_for_others_is_granted_and_never_delivered(here: Site) -> None:
    with party(here, CONTROLLER) as controller, party(here, "cam-1") as device:
        wished = ("#", "edgetrt/#", "edgetrt/v1/d/+/#", "edgetrt/v1/d/cam-2/cmd", "homeassistant/#",
                  "edgetrt/v1/u/cam-2/#", "$share/all/edgetrt/v1/d/cam-2/#")  # fmt: skip
        # The very thing that makes such a test necessary.
        assert {device.subscribe(topic) for topic in wished} == {GRANTED}
        for topic in (
            "edgetrt/v1/d/cam-2/desired",
            "edgetrt/v1/d/cam-2/cmd",
            "edgetrt/v1/u/cam-2/event",
        ):
            assert controller.say(topic, b"secret") in (0, 0x10)
        with party(here, "cam-2") as other:
            other.say("edgetrt/v1/u/cam-2/reply/1", b"secret")
            other.say("edgetrt/v1/u/cam-2/status", b"secret", retain=True)
            other.say("edgetrt/v1/u/cam-2/status", b"", retain=True)
        controller.say("edgetrt/v1/d/all/announce", b"news")
        controller.say("edgetrt/v1/d/cam-1/desired", b"mine")
        controller.say("edgetrt/v1/d/cam-1/cmd", b"last")
        heard = set(device.heard("last"))
        assert heard == {"edgetrt/v1/d/all/announce", "edgetrt/v1/d/cam-1/desired"}
        # Its own words are not read back either: the tree above is for those who may hear it.
        device.say("edgetrt/v1/u/cam-1/event", b"own")
        controller.say("edgetrt/v1/d/cam-1/cmd", b"end")
        device.heard("end")
        assert b"own" not in {m.payload for m in device.messages}
        assert b"secret" not in {m.payload for m in device.messages}


def test_retained_secrets_of_others_are_not_delivered_late(here: Site) -> None:
    with party(here, CONTROLLER) as controller:
        controller.say("edgetrt/v1/d/cam-2/desired", b"for cam-2", retain=True)
        with party(here, "cam-1") as device:
            device.subscribe("edgetrt/v1/d/#")
            controller.say("edgetrt/v1/d/cam-1/cmd", b"last")
            assert device.heard("last") == []
        controller.say("edgetrt/v1/d/cam-2/desired", b"", retain=True)


@pytest.mark.parametrize(
    "answer_to",
    [
        "edgetrt/v1/d/cam-2/cmd",
        "edgetrt/v1/d/cam-1/desired",
        "edgetrt/v1/u/cam-2/reply/1",
        "elsewhere",
    ],
)
def test_a_response_topic_gives_a_device_no_rights(here: Site, answer_to: str) -> None:
    """Whoever answers as asked is stopped by the broker when the question was a trap."""
    with (
        party(here, CONTROLLER) as controller,
        party(here, "cam-1") as device,
        party(here, "cam-2") as other,
    ):
        controller.subscribe("edgetrt/#")
        other.subscribe("edgetrt/v1/d/cam-2/#")
        device.subscribe("edgetrt/v1/d/cam-1/#")
        asked = Properties(PacketTypes.PUBLISH)
        asked.ResponseTopic = answer_to
        controller.say("edgetrt/v1/d/cam-1/cmd", b"ping", properties=asked)
        deadline = time.monotonic() + 20
        while not device.messages and time.monotonic() < deadline:
            time.sleep(0.01)
        wanted = device.messages[0].properties.ResponseTopic
        assert wanted == answer_to
        assert device.say(wanted, b"answer") == NOT_AUTHORIZED
        controller.say("edgetrt/v1/d/cam-2/cmd", b"last")
        assert other.heard("last") == []
        controller.heard("last")
        assert b"answer" not in {m.payload for m in controller.messages}


@pytest.mark.parametrize("name", ["+", "#", "cam-1/#", "cam-2/x"])
def test_a_name_that_is_a_pattern_opens_nothing(here: Site, name: str) -> None:
    """The authority should not sign such a name; the broker must not believe it."""
    odd = here.authority.issue(name, file="odd")
    context = ssl.create_default_context(cafile=str(here.authority.ca))
    context.load_cert_chain(odd.cert, odd.key)
    got: list[MQTTMessage] = []
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.tls_set_context(context)
    client.on_message = lambda _client, _data, message: got.append(message)
    client.on_connect = lambda *_: client.subscribe("edgetrt/v1/d/#", qos=1)
    client.connect("127.0.0.1", here.port)
    with party(here, CONTROLLER) as controller:
        controller.subscribe("edgetrt/v1/u/#")
        client.loop_start()
        try:
            time.sleep(0.2)
            client.publish("edgetrt/v1/u/cam-2/status", b"not mine", qos=1)
            client.publish(
                f"edgetrt/v1/u/{name.partition('/')[0].strip('+#') or 'x'}/y", b"z", qos=1
            )
            controller.say("edgetrt/v1/d/cam-2/cmd", b"secret")
            controller.say("edgetrt/v1/d/cam-1/cmd", b"secret")
            time.sleep(0.2)
            controller.say("edgetrt/v1/u/cam-3/event", b"last")
            assert controller.heard("last") == []
            assert got == []
        finally:
            client.disconnect()
            client.loop_stop()


def test_a_session_belongs_to_the_certificate(here: Site) -> None:
    with party(here, "cam-2") as victim, party(here, "cam-1", client_id="cam-2") as device:
        device.say("edgetrt/v1/u/cam-1/status")
        victim.say("edgetrt/v1/u/cam-2/status")
        assert not victim.disconnected.is_set()


@pytest.mark.parametrize("user", [CONTROLLER, HOME_ASSISTANT])
def test_no_device_can_be_called_as_a_user_with_rights(user: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(user, Name)


def test_home_assistant_reads_and_never_commands(here: Site) -> None:
    with (
        party(here, CONTROLLER) as controller,
        party(here, HOME_ASSISTANT) as home,
        party(here, "cam-1") as device,
    ):
        controller.subscribe("edgetrt/v1/d/#")
        home.subscribe("edgetrt/v1/#")
        home.subscribe("homeassistant/#")
        assert home.say("edgetrt/v1/d/cam-1/cmd") == NOT_AUTHORIZED
        assert home.say("edgetrt/v1/u/cam-1/status") == NOT_AUTHORIZED
        controller.say("edgetrt/v1/d/cam-1/desired", b"not for you")
        assert device.say("edgetrt/v1/u/cam-1/health", b"h") == 0
        assert device.say("homeassistant/device/edgetrt/cam-1/config", b"last") == 0
        assert set(home.heard("last")) == {"edgetrt/v1/u/cam-1/health"}
        controller.say("edgetrt/v1/d/cam-1/cmd", b"end")
        assert controller.heard("end") == ["edgetrt/v1/d/cam-1/desired"]


def test_the_limits_are_announced(here: Site) -> None:
    announced: list[Any] = []
    came = threading.Event()
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.tls_set_context(here.context("cam-1"))

    def connected(
        _client: Client, _data: object, _flags: object, _reason: object, said: Any
    ) -> None:
        announced.append(said)
        came.set()

    client.on_connect = connected
    client.connect("127.0.0.1", here.port)
    client.loop_start()
    try:
        assert came.wait(20)
    finally:
        client.disconnect()
        client.loop_stop()
    said = announced[0]
    assert (said.MaximumPacketSize, said.ReceiveMaximum, said.MaximumQoS) == (262144, 64, 1)
