"""One connection to see whether the broker takes us; subscribes to nothing, says nothing."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgetrt.mqtt.connection import Connection
from edgetrt.mqtt.places import endpoints
from edgetrt.mqtt.settings import Settings

if TYPE_CHECKING:
    from edgetrt.config import BrokerConfig


_SETTINGS = Settings(will_delay_s=0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a broker that accepted us said of itself.

    Attributes:
        where: host and port.
        tls: version and cipher; empty without TLS.
        server: the common name of its certificate.
        server_expires: until when that is valid, as the certificate says it.
        session: whether it had kept a session for us: this device was here before.
    """

    where: str
    tls: str
    server: str
    server_expires: str
    session: bool


async def probe(config: BrokerConfig, client_id: str, settings: Settings = _SETTINGS) -> Answer:
    """Connect and disconnect.

    A session that the broker keeps for the device stays as it is; an agent that is connected under the
    same name is disconnected by the broker and comes back by itself.

    Args:
        config: which broker, its files resolved, and who we are to it.
        client_id: the device's name, or one that nobody else has.
        settings: how to talk to it.

    Raises:
        ConfigError: a file cannot be read or used.
        TransportError: unreachable, not trusted, or refused; the message says why.
    """
    endpoint = endpoints(config, client_id)[0]
    connection = Connection(endpoint, settings, None, lambda *_: None)
    try:
        session = await connection.open()
        cipher, certificate = _tls(connection.peer)
    finally:
        await connection.close()
    subject: dict[str, str] = {
        name: value for part in certificate.get("subject", ()) for name, value in part
    }
    expires = str(certificate.get("notAfter", ""))
    return Answer(endpoint.where, cipher, subject.get("commonName", ""), expires, session)


def _tls(peer: object) -> tuple[str, dict[str, Any]]:
    """Version and cipher, and what the certificate says."""
    if not isinstance(peer, ssl.SSLSocket):
        return "", {}
    cipher = peer.cipher()
    return f"{peer.version()} {cipher[0] if cipher else ''}".strip(), peer.getpeercert() or {}
