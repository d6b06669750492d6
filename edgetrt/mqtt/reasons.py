"""Why there is no connection, in words."""

from __future__ import annotations

import socket
import ssl
import time

from edgetrt.errors import TakenOverError, TransportError, UnheardError

_NO_SUBSCRIBER, _FAILURE, _TAKEN_OVER = 0x10, 0x80, 0x8E

_HINTS = {
    0x84: "The broker does not speak MQTT 5; mosquitto does since 1.6.",
    0x85: "The broker does not accept this device's name as a client id.",
    0x86: "Check `broker.username` and `broker.password_file`.",
    0x87: (
        "Check `broker.username`, `broker.password_file` or the certificate, and the broker's "
        "access list."
    ),
    _TAKEN_OVER: "Two agents use the same device name; give each its own.",
}

_NOT_YET_VALID = 9
_UNTRUSTED = {
    _NOT_YET_VALID: "Set this device's clock: sudo timedatectl set-ntp true.",
    10: "Renew the broker's certificate, or set this device's clock if it is ahead.",
    18: "The broker signed for itself; `broker.ca_file` must be that very certificate, made as a CA.",
    19: "Another CA signed it than `broker.ca_file` holds.",
    20: "Another CA signed it than `broker.ca_file` holds.",
    62: "Set `broker.host` to a name that the broker's certificate is for.",
    64: "Set `broker.host` to an address that the broker's certificate is for.",
}
"""What to do, by OpenSSL's number of why a certificate was not trusted."""

_RENEW = "Have a new one signed: edgetrt provision --csr."
_ALERTS = {
    "CERTIFICATE_EXPIRED": ("says that this device's certificate has expired", _RENEW),
    "CERTIFICATE_REVOKED": ("says that this device's certificate was revoked", _RENEW),
    "CERTIFICATE_REQUIRED": (
        "asks for a certificate, and this device has shown none",
        "Set `broker.cert_file` and `broker.key_file`, or run edgetrt provision.",
    ),
    "UNKNOWN_CA": (
        "does not know the CA of this device's certificate",
        "Take a certificate of the site's CA: edgetrt provision --csr.",
    ),
    "BAD_CERTIFICATE": ("does not accept this device's certificate", _RENEW),
    "CERTIFICATE_UNKNOWN": ("does not accept this device's certificate", _RENEW),
}
"""What a broker says of our certificate, by the words of TLS (RFC 8446, section 6.2)."""


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
        return untrusted(error, where)
    if isinstance(error, ssl.SSLError):
        return alerted(error, where)
    if isinstance(error, ConnectionError):
        return cut_short(where)
    if isinstance(error, TimeoutError):
        return TransportError(f"broker {where}: no answer", "Check the network and the firewall.")
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return TransportError(f"broker {where}: cannot be reached: {text}")


def untrusted(error: ssl.SSLCertVerificationError, where: str) -> TransportError:
    """Explain why we do not believe the broker's certificate."""
    said = error.verify_message
    if error.verify_code == _NOT_YET_VALID:
        said += f"; this device's clock says {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC"
    return TransportError(
        f"broker {where}: its certificate is not trusted: {said}",
        _UNTRUSTED.get(error.verify_code, "Check `broker.ca_file`, and the broker's certificate."),
    )


def alerted(error: ssl.SSLError, where: str) -> TransportError:
    """Explain the end of TLS; the broker says what it has against our certificate in an alert."""
    reason = error.reason or str(error)
    for word, (said, hint) in _ALERTS.items():
        if word in reason:
            return TransportError(f"broker {where}: {said} ({reason})", hint)
    return TransportError(
        f"broker {where}: no TLS connection: {reason}",
        "Does this port speak TLS, and does the broker accept our certificate?",
    )


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


def puback_error(topic: str, code: int, name: object) -> TransportError | None:
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
        told = f"broker {where}: closed the connection: {name} (0x{code:02X})"
        hint = _HINTS.get(code, "")
        return TakenOverError(told, hint) if code == _TAKEN_OVER else TransportError(told, hint)
    if code == 0x8D:
        return TransportError(f"broker {where}: went silent", "Check the network.")
    return TransportError(f"broker {where}: connection lost")
