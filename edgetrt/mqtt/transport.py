"""Keeps a connection to the broker: connect, subscribe, wait until it is lost, back off, again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgetrt.errors import ConfigError, NotConnectedError, TransportError
from edgetrt.mqtt.backoff import Backoff
from edgetrt.mqtt.connection import Connection, Done
from edgetrt.mqtt.settings import Endpoint, Settings
from edgetrt.types import ConnectionState

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessage

    from edgetrt.config import BrokerConfig

_log = logging.getLogger(__name__)
_TLS_PORT = 8883
_INBOX = 256

LastWill = Callable[[], tuple[str, bytes]]
"""Topic and payload that the broker publishes, retained, when this connection breaks."""


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A message that arrived."""

    topic: str
    payload: bytes


class MqttTransport:
    """The `Transport` port.

    Args:
        config: where the broker is and who we are to it.
        client_id: the device's name; the broker keeps the session under it.
        last_will: asked before every attempt to connect.
        subscriptions: topic filters.
        settings: limits and timeouts.
        backoff: waits between attempts.

    Raises:
        ConfigError: a password, certificate or key file cannot be read.
    """

    def __init__(
        self,
        config: BrokerConfig,
        client_id: str,
        last_will: LastWill | None = None,
        *,
        subscriptions: tuple[str, ...] = (),
        settings: Settings | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._endpoint = endpoint(config, client_id)
        self._last_will = last_will
        self._subscriptions = subscriptions
        self._settings = settings or Settings()
        self._backoff = backoff or Backoff()
        self._state = ConnectionState(False, f"broker {self._endpoint.where}: not connected yet")
        self._watchers: set[asyncio.Queue[ConnectionState]] = set()
        self._connection: Connection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._subscribed = False
        self.overrun = 0
        """Messages that arrived faster than they were taken, and were left unacknowledged."""

    @property
    def state(self) -> ConnectionState:
        """Whether there is a connection now, and why not."""
        return self._state

    async def __aenter__(self) -> MqttTransport:
        self._inbox: asyncio.Queue[tuple[Connection, MQTTMessage]] = asyncio.Queue(_INBOX)
        self._keeper = asyncio.create_task(self._keep_connected(), name="mqtt")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            reason = f"broker {self._endpoint.where}: disconnected"
            self._tell(ConnectionState(False, reason), logging.INFO)

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = None
    ) -> None:
        """Publish with QoS 1 and wait for the acknowledgement.

        Raises:
            NotConnectedError: no connection now, or it was lost before the acknowledgement.
            TransportError: the broker refused it; the message carries its reason code.
        """
        connection = self._connected(topic)
        await connection.publish(topic, payload, retain=retain, expiry_s=expiry_s)

    def post(
        self,
        topic: str,
        payload: bytes,
        done: Done,
        *,
        retain: bool = False,
        expiry_s: int | None = None,
    ) -> None:
        """Publish with QoS 1 without waiting; `done` is told once, with None or with why not.

        Raises:
            NotConnectedError: no connection now.
            TransportError: the broker does not take messages of this length.
        """
        self._connected(topic).post(topic, payload, done, retain=retain, expiry_s=expiry_s)

    def _connected(self, topic: str) -> Connection:
        if self._connection is None:
            raise NotConnectedError(f"publish to {topic}: {self._state.reason}")
        return self._connection

    async def messages(self) -> AsyncIterator[ReceivedMessage]:
        """What arrives; a message is acknowledged when the next one is asked for."""
        while True:
            connection, message = await self._inbox.get()
            yield ReceivedMessage(message.topic, bytes(message.payload))
            connection.acknowledge(message)

    async def states(self) -> AsyncIterator[ConnectionState]:
        """The state now, and every change after it."""
        changes: asyncio.Queue[ConnectionState] = asyncio.Queue()
        changes.put_nowait(self._state)
        self._watchers.add(changes)
        try:
            while True:
                yield await changes.get()
        finally:
            self._watchers.discard(changes)

    async def _keep_connected(self) -> None:
        while True:
            will = self._last_will() if self._last_will else None
            connection = Connection(self._endpoint, self._settings, will, self._arrived)
            try:
                await self._serve(connection)
            except TransportError as error:
                self._tell(ConnectionState(False, f"{error.message}. {error.hint}".strip()))
            finally:
                self._connection = None
                await connection.close()
            await asyncio.sleep(self._backoff.delay_s())

    async def _serve(self, connection: Connection) -> None:
        """Use one connection until it ends; always ends with TransportError."""
        session_present = await connection.open()
        # A session may be that of an older version of us, with other subscriptions.
        if not (session_present and self._subscribed):
            await connection.subscribe(self._subscriptions)
            self._subscribed = True
        self._connection = connection
        since = asyncio.get_running_loop().time()
        self._tell(ConnectionState(True), logging.INFO)
        try:
            raise await asyncio.shield(connection.lost)
        finally:
            self._backoff.held(asyncio.get_running_loop().time() - since)

    def _arrived(self, connection: Connection, message: MQTTMessage) -> None:
        try:
            self._inbox.put_nowait((connection, message))
        except asyncio.QueueFull:
            # Not acknowledged: the broker sends it again with the next connection.
            self.overrun += 1

    def _tell(self, state: ConnectionState, level: int = logging.WARNING) -> None:
        """Log and hand on a change; the same reason again is none."""
        if state == self._state:
            return
        self._state = state
        _log.log(level, "%s", state.reason or f"broker {self._endpoint.where}: connected")
        for watcher in self._watchers:
            watcher.put_nowait(state)


def endpoint(config: BrokerConfig, client_id: str) -> Endpoint:
    """Read the files that a broker section names.

    Raises:
        ConfigError: one of them cannot be read or used.
    """
    return Endpoint(
        host=config.host,
        port=config.port,
        client_id=client_id,
        keepalive_s=config.keepalive_s,
        username=config.username,
        password=_password(config),
        tls=_tls(config),
    )


def _password(config: BrokerConfig) -> str | None:
    if config.password_file is None:
        return None
    try:
        return Path(config.password_file).read_text(encoding="utf-8").rstrip("\r\n")
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
        context = ssl.create_default_context(cafile=config.ca_file)
        if config.cert_file is not None:
            context.load_cert_chain(config.cert_file, config.key_file)
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
