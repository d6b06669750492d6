"""Why there is no connection, in words."""

from __future__ import annotations

import socket
import ssl

from edgetrt.errors import TransportError, UnheardError

_NO_SUBSCRIBER, _FAILURE = 0x10, 0x80

_HINTS = {
    0x84: "The broker does not speak MQTT 5; mosquitto does since 1.6.",
    0x85: "The broker does not accept this device's name as a client id.",
    0x86: "Check `broker.username` and `broker.password_file`.",
    0x87: (
        "Check `broker.username`, `broker.password_file` or the certificate, and the broker's "
        "access list."
    ),
    0x8E: "Two agents use the same device name; give each its own.",
}


def unreachable(error: OSError | ValueError, where: str) -> TransportError:
    """Explain why no connection could be opened."""
    if isinstance(error, ConnectionRefusedError):
        return TransportError(
            f"broker {where}: refuses connections", "Is the broker running, and on this port?"
        )
    if isinstance(error, socket.gaierror):
        return TransportError(
            f"broker {where}: the host name cannot be resolved", "Check `broker.host` and DNS."
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return TransportError(
            f"broker {where}: its certificate is not trusted: {error.verify_message}",
            "Check `broker.ca_file`, and that `broker.host` is the name in the certificate.",
        )
    if isinstance(error, ssl.SSLError):
        return TransportError(
            f"broker {where}: no TLS connection: {error.reason or error}",
            "Does this port speak TLS, and does the broker accept our certificate?",
        )
    if isinstance(error, ConnectionError):
        return cut_short(where)
    if isinstance(error, TimeoutError):
        return TransportError(f"broker {where}: no answer", "Check the network and the firewall.")
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return TransportError(f"broker {where}: cannot be reached: {text}")


def cut_short(where: str) -> TransportError:
    """Explain a connection that ended before the broker answered."""
    return TransportError(
        f"broker {where}: closed the connection before it answered",
        "Is this the broker's port, and does it speak TLS exactly when `broker.tls` says so?",
    )


def refused(code: int, name: str, where: str) -> TransportError:
    """Explain a CONNACK that says no."""
    return TransportError(
        f"broker {where}: refused the connection: {name} (0x{code:02X})", _HINTS.get(code, "")
    )


def puback_error(topic: str, code: int, name: str) -> TransportError | None:
    """Explain a PUBACK; None when it says that the message was delivered to someone."""
    if code == _NO_SUBSCRIBER:
        return UnheardError(f"publish to {topic}: nobody subscribes to it")
    if code < _FAILURE:
        return None
    return TransportError(
        f"publish to {topic}: the broker refused it: {name} (0x{code:02X})",
        "Check the broker's access list for this device.",
    )


def dropped(code: int, name: str, by_broker: bool, where: str) -> TransportError:
    """Explain the end of a connection that was there."""
    if by_broker:
        return TransportError(
            f"broker {where}: closed the connection: {name} (0x{code:02X})", _HINTS.get(code, "")
        )
    if code == 0x8D:
        return TransportError(f"broker {where}: went silent", "Check the network.")
    return TransportError(f"broker {where}: connection lost")
