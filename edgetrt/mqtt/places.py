"""Whom to connect to, from the config's broker section and the files that it names."""

from __future__ import annotations

import contextlib
import os
import ssl
from pathlib import Path

from edgetrt.config import CREDENTIAL, BrokerConfig, address
from edgetrt.errors import ConfigError
from edgetrt.mqtt.settings import Endpoint

_TLS_PORT = 8883


def endpoints(config: BrokerConfig, client_id: str) -> tuple[Endpoint, ...]:
    """The broker, then the others, all with the same login.

    Raises:
        ConfigError: a file cannot be read or used, or an address cannot be understood.
    """
    password = _password(config)
    places = [(config.host, config.port)]
    places += [address(text, "broker.others") for text in config.others]
    tls = _tls(config)
    return tuple(
        Endpoint(host, port, client_id, config.keepalive_s, config.username, password, tls)
        for host, port in places
    )


def _file(written: str) -> str:
    """Path of a file, or of a credential that systemd gave to this service.

    Raises:
        ConfigError: a credential is named, and there are none.
    """
    if not written.startswith(CREDENTIAL):
        return written
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise ConfigError(
            f"broker: {written}: this process was given no credentials",
            "Add LoadCredential= to the unit, or name a file.",
        )
    return str(Path(folder) / written.removeprefix(CREDENTIAL))


def _password(config: BrokerConfig) -> str | None:
    if config.password_file is None:
        return None
    try:
        return Path(_file(config.password_file)).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"broker.password_file {config.password_file}: cannot be read: {error}"
        ) from error


def _tls(config: BrokerConfig) -> ssl.SSLContext | None:
    """TLS when asked for; when not said, with a CA file or on the port that means TLS."""
    wanted = config.tls
    if wanted is None:
        wanted = config.ca_file is not None or config.port == _TLS_PORT
    if not wanted:
        return None
    try:
        context = ssl.create_default_context(
            cafile=None if config.ca_file is None else _file(config.ca_file)
        )
        if config.cert_file is not None:
            key = None if config.key_file is None else _file(config.key_file)
            context.load_cert_chain(_file(config.cert_file), key)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"broker: TLS files (ca_file {config.ca_file}, cert_file {config.cert_file}, "
            f"key_file {config.key_file}) cannot be used: {error}",
            "Each must exist, be PEM, and be readable by this user.",
        ) from error
    context.sslsocket_class = _TidySocket
    return context


class _TidySocket(ssl.SSLSocket):
    """Closes itself when the handshake fails; paho would leave it to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, or close and raise."""
        with contextlib.ExitStack() as failed:
            failed.callback(self.close)
            super().do_handshake(block)
            failed.pop_all()
