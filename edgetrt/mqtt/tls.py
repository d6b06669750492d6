"""TLS: from the files that the config names, and noticing when they were renewed."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterable
from pathlib import Path

from edgetrt.config import CREDENTIAL, BrokerConfig
from edgetrt.errors import ConfigError

_TLS_PORT = 8883

Stamps = tuple[tuple[int, int, int] | None, ...]
"""Of files: inode, time of change and length; None = not there."""


def path_of(written: str) -> str:
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


def stamps(config: BrokerConfig) -> Stamps:
    """What tells the files of today from those of yesterday."""
    files = (config.ca_file, config.cert_file, config.key_file, config.password_file)
    return tuple(_stamps(file for file in files if file is not None))


def _stamps(files: Iterable[str]) -> Iterable[tuple[int, int, int] | None]:
    for file in files:
        try:
            found = Path(path_of(file)).stat()
            yield found.st_ino, found.st_mtime_ns, found.st_size
        except OSError:
            yield None


def context(config: BrokerConfig) -> ssl.SSLContext | None:
    """TLS when asked for; when not said, with a CA file or on the port that means TLS.

    Raises:
        ConfigError: a file cannot be read, or key and certificate do not belong together.
    """
    wanted = config.tls
    if wanted is None:
        wanted = config.ca_file is not None or config.port == _TLS_PORT
    if not wanted:
        return None
    try:
        made = ssl.create_default_context(
            cafile=None if config.ca_file is None else path_of(config.ca_file)
        )
        if config.cert_file is not None:
            key = None if config.key_file is None else path_of(config.key_file)
            # An answer instead of a question on the terminal, when the key has a password.
            made.load_cert_chain(path_of(config.cert_file), key, password="")
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"broker: TLS files (ca_file {config.ca_file}, cert_file {config.cert_file}, "
            f"key_file {config.key_file}) cannot be used: {error}",
            "Each must exist, be PEM, and be readable by this user; the key must be the certificate's.",
        ) from error
    made.sslsocket_class = TidySocket
    return made


class TidySocket(ssl.SSLSocket):
    """Closes itself when the handshake fails, and remembers why the other end ended it.

    paho would leave it to the garbage collector, and tells only that the connection is gone. With TLS
    1.3 a broker that refuses our certificate says so after the handshake, at the first read.
    """

    failure: ssl.SSLError | None = None

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, or close and raise."""
        with contextlib.ExitStack() as failed:
            failed.callback(self.close)
            super().do_handshake(block)
            failed.pop_all()

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Read what there is; what ends the connection is kept in `failure`."""
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.failure = error
            raise


def failure(socket: object) -> ssl.SSLError | None:
    """Why TLS ended on this socket, when it is one of ours and did."""
    return socket.failure if isinstance(socket, TidySocket) else None
