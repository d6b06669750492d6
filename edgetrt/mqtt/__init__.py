"""The `Transport` port over MQTT 5.

- QoS 1 only: paho ignores the broker's Receive Maximum, and with QoS 2 it loses messages that it
  reports as sent.
- paho runs without its thread: the event loop reads and writes its socket. Only opening a
  connection (name look-up, TCP, TLS) happens in a short thread, because those block.
- Every attempt gets a client of its own, so nothing of a lost connection lives on; what was not
  acknowledged is told to the publisher, who keeps it or counts it.
"""

from __future__ import annotations

from edgetrt.mqtt.backoff import Backoff
from edgetrt.mqtt.settings import Settings
from edgetrt.mqtt.transport import MqttTransport, ReceivedMessage

__all__ = ["Backoff", "MqttTransport", "ReceivedMessage", "Settings"]
