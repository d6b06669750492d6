"""One connection to the broker: a paho client without its thread, driven by the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from edgetrt.errors import NotConnectedError, TransportError, UnheardError
from edgetrt.mqtt import tls
from edgetrt.mqtt.client import make_client
from edgetrt.mqtt.opening import in_thread
from edgetrt.mqtt.outgoing import FRAMING, Done, Outgoing, send
from edgetrt.mqtt.reasons import alerted, cut_short, dropped, puback_error, refused, unreachable
from edgetrt.wire import QOS

if TYPE_CHECKING:
    from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    from edgetrt.mqtt.settings import Endpoint, Settings
    from edgetrt.types import Exchange

_TICK_S = 1.0
_GOODBYE_S = 1.0


class Connection:
    """From `open` to the end of one connection.

    Attributes:
        lost: done when the connection ended, with the reason.
        peer: the socket, also when it is closed; None before there was one.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: Settings,
        will: tuple[str, bytes] | None,
        on_message: Callable[[Connection, MQTTMessage], None],
    ) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._socket: socket.socket | None = None
        self.peer: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pending: dict[int, Outgoing] = {}
        self._queue: deque[Outgoing] = deque()
        self._room = settings.in_flight
        self._draining = False
        self._subscribed: dict[int, asyncio.Future[list[ReasonCode]]] = {}
        self._maximum_packet = 0
        self._answer: asyncio.Future[bool | TransportError] = self._loop.create_future()
        self.lost: asyncio.Future[TransportError] = self._loop.create_future()
        self._client = make_client(endpoint, settings, will)
        self._hook(self._client)

    async def open(self) -> bool:
        """Connect; True when the broker kept our session.

        Raises:
            TransportError: unreachable, refused, or no answer; the message says why.
        """
        where = self._endpoint.where
        try:
            await in_thread(self._client.reconnect, self._discard)
        except (OSError, ValueError) as error:
            raise unreachable(error, where) from error
        self._attach()
        await asyncio.wait([self._answer], timeout=self._settings.connack_timeout_s)
        if not self._answer.done():
            raise TransportError(
                f"broker {where}: accepted the connection and then said nothing",
                "Is this port an MQTT broker's?",
            )
        answer = self._answer.result()
        if isinstance(answer, TransportError):
            raise answer
        return answer

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool,
        expiry_s: int | None,
        exchange: Exchange | None = None,
    ) -> None:
        """Publish and wait for the acknowledgement; raises as the `Transport` port says."""
        answer: asyncio.Future[TransportError | None] = self._loop.create_future()

        def done(error: TransportError | None) -> None:
            if not answer.done():
                answer.set_result(error)

        self.post(topic, payload, done, retain=retain, expiry_s=expiry_s, exchange=exchange)
        error = await answer
        if error is not None and not isinstance(error, UnheardError):
            raise error

    def post(
        self,
        topic: str,
        payload: bytes,
        done: Done,
        *,
        retain: bool,
        expiry_s: int | None,
        exchange: Exchange | None = None,
    ) -> None:
        """Publish without waiting; what is beyond the window waits here, in order."""
        self._check()
        if self._maximum_packet and len(topic) + len(payload) + FRAMING > self._maximum_packet:
            raise TransportError(
                f"publish to {topic}: {len(payload)} bytes, the broker takes {self._maximum_packet}"
            )
        self._queue.append(Outgoing(topic, payload, retain, expiry_s, done, exchange))
        if not self._draining:
            self._drain()

    def _drain(self) -> None:
        """Hand to paho what the window has room for."""
        self._draining = False
        while self._queue and self._room > 0 and not self.lost.done():
            self._send(self._queue.popleft())

    def _send(self, message: Outgoing) -> None:
        """Hand a message to paho; the place in the window belongs to it from then on."""
        try:
            mid = send(self._client, message)
        except TransportError as error:
            return message.done(error)
        self._room -= 1
        self._pending[mid] = message
        return None

    async def subscribe(self, filters: Iterable[str]) -> None:
        """Subscribe to topic filters.

        Raises:
            TransportError: the broker refused one.
        """
        wanted = [(topic, QOS) for topic in filters]
        if not wanted:
            return
        self._check()
        _, mid = self._client.subscribe(wanted)
        answer: asyncio.Future[list[ReasonCode]] = self._loop.create_future()
        self._subscribed[mid or 0] = answer
        for (topic, _), reason in zip(wanted, await answer, strict=True):
            if reason.is_failure:
                raise TransportError(
                    f"subscribe to {topic}: the broker refused it: {reason} (0x{reason.value:02X})"
                )

    def acknowledge(self, message: MQTTMessage) -> None:
        """Tell the broker that a message was dealt with; nothing when the connection is gone."""
        if not self.lost.done():
            self._client.ack(message.mid, message.qos)

    async def close(self) -> None:
        """Say goodbye when connected, so that the last will is not published; free the socket."""
        if self._socket is not None and self._answer.done() and not self.lost.done():
            self._client.disconnect()
            await asyncio.wait([self.lost], timeout=_GOODBYE_S)
        self._discard()
        self._end(NotConnectedError(f"broker {self._endpoint.where}: disconnected"))

    def _hook(self, client: Client) -> None:
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_publish = self._published
        client.on_subscribe = self._suback
        client.on_message = lambda _client, _data, message: self._on_message(self, message)
        client.on_socket_close = lambda _client, _data, _socket: self._detach()
        client.on_socket_register_write = lambda _client, _data, _socket: self._watch_writes()
        client.on_socket_unregister_write = lambda _client, _data, _socket: self._unwatch_writes()

    def _attach(self) -> None:
        """Hand paho's socket to the event loop."""
        found: Any = self._client.socket()
        self._socket = self.peer = found
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.add_reader(found, self._readable)
        if self._client.want_write():
            self._watch_writes()
        self._tick()

    def _detach(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket = None

    def _watch_writes(self) -> None:
        # Before `_attach` paho calls this from the thread that connects: nothing to watch yet.
        if self._socket is not None:
            self._loop.add_writer(self._socket, self._drive, self._write)

    def _unwatch_writes(self) -> None:
        if self._socket is not None:
            self._loop.remove_writer(self._socket)

    def _write(self) -> None:
        """Let what is queued leave in full segments: paho sends every packet by itself."""
        corked = self._socket
        if corked is not None:
            corked.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        self._client.loop_write()
        if corked is not None and self._socket is corked:
            corked.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    def _readable(self) -> None:
        self._drive(self._client.loop_read)
        # What TLS has decrypted already does not make the socket readable again.
        while isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            self._drive(self._client.loop_read)

    def _tick(self) -> None:
        self._drive(self._client.loop_misc)
        if not self.lost.done():
            self._timer = self._loop.call_later(_TICK_S, self._tick)

    def _drive(self, step: Callable[[], object]) -> None:
        """Run a step of paho; bytes from the network must never end the agent."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - paho's parser raises whatever a bad packet hits
            self._discard()
            self._end(TransportError(f"broker {self._endpoint.where}: unreadable packet: {error}"))

    def _connected(
        self,
        _client: Client,
        _data: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            return self._end(refused(reason.value, str(reason), self._endpoint.where))
        # paho does not look at these: the broker's limits are ours to keep.
        limit = getattr(properties, "ReceiveMaximum", self._settings.in_flight)
        self._room = min(self._settings.in_flight, limit)
        self._maximum_packet = getattr(properties, "MaximumPacketSize", 0)
        if not self._answer.done():
            self._answer.set_result(flags.session_present)
        return None

    def _disconnected(
        self,
        _client: Client,
        _data: object,
        flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        by_broker = flags.is_disconnect_packet_from_server
        if (alert := tls.failure(self.peer)) is not None:
            return self._end(alerted(alert, self._endpoint.where))
        if not self._answer.done() and not by_broker:
            return self._end(cut_short(self._endpoint.where))
        return self._end(dropped(reason.value, str(reason), by_broker, self._endpoint.where))

    def _published(
        self, _client: Client, _data: object, mid: int, reason: ReasonCode, _properties: Properties
    ) -> None:
        # The place is free when the broker says so, also when nobody waits any more.
        self._room += 1
        message = self._pending.pop(mid, None)
        if message is not None:
            message.done(puback_error(message.topic, reason.value, reason))
        if self._queue and not self._draining:
            # After all acknowledgements that came with this one, so that the next leave together.
            self._draining = True
            self._loop.call_soon(self._drain)

    def _suback(
        self,
        _client: Client,
        _data: object,
        mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        answer = self._subscribed.pop(mid, None)
        if answer is not None and not answer.done():
            answer.set_result(reasons)

    def _check(self) -> None:
        if self.lost.done():
            raise NotConnectedError(self.lost.result().message, self.lost.result().hint)

    def _end(self, reason: TransportError) -> None:
        """Tell everyone who waits that this connection is over; the first reason stands."""
        if self.lost.done():
            return
        self.lost.set_result(reason)
        if not self._answer.done():
            self._answer.set_result(reason)
        over = NotConnectedError(
            f"{reason.message}, before the acknowledgement; it may have arrived", reason.hint
        )
        told = [*self._pending.values(), *self._queue]
        asked = list(self._subscribed.values())
        self._pending.clear()
        self._queue.clear()
        self._subscribed.clear()
        for message in told:
            message.done(over)
        for answer in asked:
            if not answer.done():
                answer.set_exception(over)

    def _discard(self) -> None:
        """Close the socket without a word and stop paho from calling back."""
        if self._timer is not None:
            self._timer.cancel()
        self._detach()
        client = self._client
        client.on_socket_close = client.on_socket_unregister_write = None
        client.on_socket_register_write = None
        found: Any = client.socket()
        if found is not None:
            with contextlib.suppress(OSError):
                found.close()
