"""A message on its way to the broker, and handing it to paho."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from paho.mqtt.enums import MQTTErrorCode

from edgetrt.errors import NotConnectedError, TransportError
from edgetrt.mqtt.client import publish_properties
from edgetrt.wire import QOS

if TYPE_CHECKING:
    from paho.mqtt.client import Client

    from edgetrt.types import Exchange

Done = Callable[[TransportError | None], None]
"""Told once what became of a message: None = acknowledged."""

FRAMING = 64
"""Bytes that the MQTT packet may need beside topic and payload."""


class Outgoing(NamedTuple):
    """A message that waits for its place in the window."""

    topic: str
    payload: bytes
    retain: bool
    expiry_s: int | None
    done: Done
    exchange: Exchange | None = None


def send(client: Client, message: Outgoing) -> int:
    """Hand a message to paho; returns the number under which it is acknowledged.

    Raises:
        TransportError: paho does not take it; NotConnectedError when there is no connection.
    """
    properties = publish_properties(message.expiry_s, message.exchange)
    try:
        info = client.publish(message.topic, message.payload, QOS, message.retain, properties)
    except ValueError as error:
        raise TransportError(f"publish to {message.topic!r}: {error}") from error
    if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
        raise NotConnectedError(f"publish to {message.topic}: connection lost")
    return info.mid
