"""A paho client made for one connection: MQTT 5, a kept session, a last will, our limits."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgetrt.wire import QOS

if TYPE_CHECKING:
    from edgetrt.mqtt.settings import Endpoint, Settings
    from edgetrt.types import Exchange


_BARE = 2
"""Bytes of an acknowledgement that says no more than its number."""


class QuickClient(Client):
    """paho's client, with a short way for the packet that comes for every message.

    For each acknowledgement paho makes a table of all reasons and one of all properties that MQTT knows,
    which is a sixth of what a message costs. One that is bare means success and has neither.
    """

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if cmd != "PUBACK" or len(packet) != _BARE:
            return super()._handle_pubackcomp(cmd)
        number = int.from_bytes(packet, "big")
        with self._out_message_mutex:
            if number not in self._out_messages:
                return MQTTErrorCode.MQTT_ERR_SUCCESS
            return self._do_on_publish(number, _SUCCESS, _NOTHING)


def make_client(endpoint: Endpoint, settings: Settings, will: tuple[str, bytes] | None) -> Client:
    """Configure everything but the callbacks; connects nothing."""
    client = QuickClient(
        CallbackAPIVersion.VERSION2,
        client_id=endpoint.client_id,
        protocol=MQTTProtocolVersion.MQTTv5,
        reconnect_on_failure=False,
        manual_ack=True,
    )
    client.connect_timeout = settings.connect_timeout_s
    # Our own window holds; paho's would look through everything in flight at each acknowledgement.
    client.max_inflight_messages_set(0)
    if endpoint.username is not None:
        client.username_pw_set(endpoint.username, endpoint.password)
    if endpoint.tls is not None:
        client.tls_set_context(endpoint.tls)
    if will is not None:
        properties = _properties(PacketTypes.WILLMESSAGE)
        properties.WillDelayInterval = settings.will_delay_s
        client.will_set(*will, qos=QOS, retain=True, properties=properties)
    client.connect_async(
        endpoint.host,
        endpoint.port,
        endpoint.keepalive_s,
        clean_start=False,
        properties=_connect_properties(settings),
    )
    return client


def publish_properties(expiry_s: int | None, exchange: Exchange | None = None) -> Properties | None:
    """Of a message; `expiry_s` = how long the broker may keep it for a subscriber."""
    if exchange is None:
        return _expiring(expiry_s)
    properties = _properties(PacketTypes.PUBLISH)
    if expiry_s is not None:
        properties.MessageExpiryInterval = expiry_s
    if exchange.response_topic:
        properties.ResponseTopic = exchange.response_topic
    if exchange.correlation:
        properties.CorrelationData = exchange.correlation
    return properties


@functools.lru_cache(maxsize=16)
def _expiring(expiry_s: int | None) -> Properties | None:
    if expiry_s is None:
        return None
    properties = _properties(PacketTypes.PUBLISH)
    properties.MessageExpiryInterval = expiry_s
    # paho looks through every property that exists, at each message: half of what a publish costs.
    packed = properties.pack()  # type: ignore[no-untyped-call]
    object.__setattr__(properties, "pack", lambda: packed)
    return properties


def _connect_properties(settings: Settings) -> Properties:
    properties = _properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = settings.session_expiry_s
    properties.ReceiveMaximum = settings.receive_maximum
    properties.MaximumPacketSize = settings.maximum_packet
    return properties


def _properties(packet: int) -> Properties:
    made: Properties = Properties(packet)  # type: ignore[no-untyped-call]
    return made


_SUCCESS, _NOTHING = ReasonCode(PacketTypes.PUBACK), _properties(PacketTypes.PUBACK)
