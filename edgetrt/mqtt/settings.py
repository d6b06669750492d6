"""How to talk to which broker."""

from __future__ import annotations

import ssl
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """How to talk to the broker; the defaults are for a fleet, tests shorten them.

    Attributes:
        connect_timeout_s: for the TCP connection, and again for the TLS handshake.
        connack_timeout_s: for the broker's answer after that.
        in_flight: unacknowledged messages at most; the broker's Receive Maximum may lower it.
        receive_maximum: unacknowledged messages that the broker may send to us.
        maximum_packet: bytes of a packet that the broker may send to us.
        session_expiry_s: how long the broker keeps our session and what waits for us in it.
        will_delay_s: how long it waits for us before it publishes the last will.
    """

    connect_timeout_s: float = 5.0
    connack_timeout_s: float = 10.0
    in_flight: int = 64
    receive_maximum: int = 16
    maximum_packet: int = 256 * 1024
    session_expiry_s: int = 24 * 3600
    will_delay_s: int = 30


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Whom to connect to, and as whom."""

    host: str
    port: int
    client_id: str
    keepalive_s: int
    username: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None

    @property
    def where(self) -> str:
        """Host and port for people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
