"""Keeps a connection to the broker: connect, subscribe, wait until it is lost, back off, again."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetrt.errors import NotConnectedError, TakenOverError, TransportError
from edgetrt.mqtt.backoff import Backoff, first_wait_s
from edgetrt.mqtt.connection import Connection
from edgetrt.mqtt.outgoing import Done
from edgetrt.mqtt.places import Places
from edgetrt.mqtt.settings import Endpoint, Settings
from edgetrt.types import ConnectionState, Exchange

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessage

    from edgetrt.config import BrokerConfig

_log = logging.getLogger(__name__)
_INBOX = 256

LastWill = Callable[[], tuple[str, bytes]]
"""Topic and payload that the broker publishes, retained, when this connection breaks."""


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A message that arrived; see the port `Message`."""

    topic: str
    payload: bytes
    retained: bool
    expires_ns: int | None
    exchange: Exchange


class MqttTransport:
    """The `Transport` port.

    Args:
        config: where the broker is and who we are to it.
        client_id: the device's name; the broker keeps the session under it.
        last_will: asked before every attempt to connect.
        subscriptions: topic filters.
        recalled: topic filters subscribed to on every connection, so that what the broker keeps there is
            told each time, before anything is published.
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
        recalled: tuple[str, ...] = (),
        settings: Settings | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._places = Places(config, client_id)
        self._endpoint = self._places.current
        self._spread_s = config.spread_s
        self._last_will = last_will
        self._subscriptions = subscriptions
        self._recalled = recalled
        self._settings = settings or Settings()
        self._backoff = backoff or Backoff()
        self._state = ConnectionState(False, f"broker {self._endpoint.where}: not connected yet")
        self._watchers: set[asyncio.Queue[ConnectionState]] = set()
        self._connection: Connection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._subscribed: set[Endpoint] = set()
        self._told: set[str] = set()
        self.overrun = 0
        """Messages that arrived faster than they were taken, and were left unacknowledged."""

    @property
    def state(self) -> ConnectionState:
        """Whether there is a connection now, and why not."""
        return self._state

    async def __aenter__(self) -> MqttTransport:
        self._inbox: asyncio.Queue[tuple[Connection, MQTTMessage, ReceivedMessage]]
        self._inbox = asyncio.Queue(_INBOX)
        self._keeper = asyncio.create_task(self._keep_connected(), name="mqtt")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            reason = f"broker {self._endpoint.where}: disconnected"
            self._tell(ConnectionState(False, reason), logging.INFO)

    async def reach(self, within_s: float) -> None:
        """Wait for a connection.

        Raises:
            NotConnectedError: there was none in time; the message says why.
        """
        try:
            await asyncio.wait_for(self._reached(), within_s)
        except asyncio.TimeoutError:
            raise NotConnectedError(self._state.reason) from None

    async def _reached(self) -> None:
        async for state in self.states():
            if state.connected:
                return

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        expiry_s: int | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        """Publish with QoS 1 and wait for the acknowledgement.

        Raises:
            NotConnectedError: no connection now, or it was lost before the acknowledgement.
            TransportError: the broker refused it; the message carries its reason code.
        """
        connection = self._connected(topic)
        await connection.publish(
            topic, payload, retain=retain, expiry_s=expiry_s, exchange=exchange
        )

    def post(
        self,
        topic: str,
        payload: bytes,
        done: Done,
        *,
        retain: bool = False,
        expiry_s: int | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        """Publish with QoS 1 without waiting; `done` is told once, with None or with why not.

        Raises:
            NotConnectedError: no connection now.
            TransportError: the broker does not take messages of this length.
        """
        self._connected(topic).post(
            topic, payload, done, retain=retain, expiry_s=expiry_s, exchange=exchange
        )

    def _connected(self, topic: str) -> Connection:
        if self._connection is None:
            raise NotConnectedError(f"publish to {topic}: {self._state.reason}")
        return self._connection

    async def messages(self) -> AsyncIterator[ReceivedMessage]:
        """What arrives; a message is acknowledged when the next one is asked for."""
        while True:
            connection, message, received = await self._inbox.get()
            yield received
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
        since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        spread_s = first_wait_s(self._spread_s, since_boot_s, self._endpoint.host)
        await asyncio.sleep(random.uniform(0.0, spread_s))  # noqa: S311
        while True:
            will = self._last_will() if self._last_will else None
            self._places.refresh()
            self._endpoint = self._places.current
            connection = Connection(self._endpoint, self._settings, will, self._arrived)
            served = False
            try:
                await self._serve(connection)
            except TransportError as error:
                served = self._connection is not None
                reason = f"{error.message}. {error.hint}".strip()
                self._tell(ConnectionState(False, reason, isinstance(error, TakenOverError)))
            finally:
                self._connection = None
                await connection.close()
            if not served:
                # The one that served last is tried first, then each in turn.
                self._places.turn()
            await asyncio.sleep(self._backoff.delay_s())

    async def _serve(self, connection: Connection) -> None:
        """Use one connection until it ends; always ends with TransportError."""
        session_present = await connection.open()
        # A session may be that of an older version of us, with other subscriptions.
        kept = session_present and self._endpoint in self._subscribed
        if kept or await self._subscribe(connection, self._subscriptions):
            self._subscribed.add(self._endpoint)
        await self._subscribe(connection, self._recalled)
        self._connection = connection
        since = asyncio.get_running_loop().time()
        self._tell(ConnectionState(True), logging.INFO)
        try:
            raise await asyncio.shield(connection.lost)
        finally:
            self._backoff.held(asyncio.get_running_loop().time() - since)

    async def _subscribe(self, connection: Connection, filters: tuple[str, ...]) -> bool:
        """Subscribe; False when the broker lets us only publish, which must not cost us that."""
        try:
            await connection.subscribe(filters)
        except NotConnectedError:
            raise
        except TransportError as error:
            if error.message not in self._told:
                self._told.add(error.message)
                _log.warning("%s; nothing can be asked of us there", error.message)
            return False
        return True

    def _arrived(self, connection: Connection, message: MQTTMessage) -> None:
        received = _received(message, time.monotonic_ns())
        try:
            self._inbox.put_nowait((connection, message, received))
        except asyncio.QueueFull:
            # Not acknowledged: the broker sends it again with the next connection.
            self.overrun += 1

    def _tell(self, state: ConnectionState, level: int = logging.WARNING) -> None:
        """Hand on a change, and log what was not said since the last connection."""
        if state == self._state:
            return
        self._state = state
        if state.connected:
            self._told.clear()
        if state.reason not in self._told:
            self._told.add(state.reason)
            _log.log(level, "%s", state.reason or f"broker {self._endpoint.where}: connected")
        for watcher in self._watchers:
            watcher.put_nowait(state)


def _received(message: MQTTMessage, now_ns: int) -> ReceivedMessage:
    """What arrived, with MQTT 5's properties; the expiry that the broker hands on is what is left of it."""
    said = message.properties
    expiry_s = getattr(said, "MessageExpiryInterval", None)
    return ReceivedMessage(
        message.topic,
        bytes(message.payload),
        bool(message.retain),
        None if expiry_s is None else now_ns + expiry_s * 1_000_000_000,
        Exchange(
            getattr(said, "ResponseTopic", ""),
            bytes(getattr(said, "CorrelationData", b"")),
        ),
    )
