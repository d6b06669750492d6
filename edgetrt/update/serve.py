"""Serves a repository's files through the broker, to devices that have no other way to them.

Nothing here is secret and nothing here is trusted: it reads what is published anyway, and devices
verify what they get. It answers a device on that device's own topic, whatever it asks for.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, NamedTuple

from edgetrt import wire
from edgetrt.errors import EdgetrtError, MessageError, TransportError
from edgetrt.types import Exchange
from edgetrt.update.tree import Tree
from edgetrt.update.turns import Turns

if TYPE_CHECKING:
    from edgetrt.ports import Message, Transport

_log = logging.getLogger(__name__)

MOST_WAITING = 16
"""Requests of one device at a time; ours asks for eight."""
MOST_BYTES = 2048
"""Of a request."""
LEAST_COST = 4096
"""Bytes that a request counts at least: a message has its price, however little it asks for."""
_MOST_CORRELATION = 64
_IN_FLIGHT = 16
"""Chunks that the broker has not acknowledged: what this process holds in memory at most."""


class Request(NamedTuple):
    """What a device asked for, with what makes the answer known to it."""

    wanted: wire.FetchMessage
    correlation: bytes
    expires_ns: int | None


class ChunkServer:
    """Answers requests for chunks until cancelled.

    Args:
        tree: what is served.
        transport: the connection to the broker, entered, subscribed to `wire.FETCHES`.
        device_bytes_s: what one device gets at most; 0 = as fast as it goes.

    Attributes:
        sent: chunks that were published.
        refused: requests that were none, or too many.
    """

    def __init__(self, tree: Tree, transport: Transport, device_bytes_s: float = 0.0) -> None:
        self.sent = self.refused = 0
        self._tree, self._transport = tree, transport
        self._turns: Turns[Request] = Turns(device_bytes_s, MOST_WAITING)
        self._news = asyncio.Event()
        self._room = asyncio.Semaphore(_IN_FLIGHT)
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Take requests and answer them."""
        serving = asyncio.create_task(self._serve())
        try:
            async for message in self._transport.messages():
                self.take(message)
        finally:
            for task in (serving, *self._sending):
                task.cancel()
            await asyncio.wait([serving, *self._sending])

    def take(self, message: Message) -> None:
        """Take note of a request, or refuse it; never raises."""
        try:
            device, request = _understood(message)
        except MessageError as error:
            self._refuse(message.topic, error.message)
            return
        cost = max(request.wanted.length, LEAST_COST)
        until_s = math.inf if request.expires_ns is None else request.expires_ns / 1e9
        if self._turns.put(device, request, cost, until_s):
            self._news.set()
        else:
            self._refuse(
                message.topic, f"more than {MOST_WAITING} requests wait, or too many devices"
            )

    async def _serve(self) -> None:
        while True:
            await self._room.acquire()
            device, request = await self._next()
            task = asyncio.create_task(self._answer(device, request))
            self._sending.add(task)
            task.add_done_callback(self._done)

    async def _next(self) -> tuple[str, Request]:
        """Whose turn it is, once it is somebody's."""
        while True:
            turn = self._turns.take(time.monotonic())
            if isinstance(turn, tuple):
                return turn
            self._news.clear()
            waiting = asyncio.create_task(self._news.wait())
            try:
                await asyncio.wait([waiting], timeout=turn)
            finally:
                waiting.cancel()

    async def _answer(self, device: str, request: Request) -> None:
        if request.expires_ns is not None and time.monotonic_ns() >= request.expires_ns:
            return
        wanted = request.wanted
        part = self._tree.read(wanted.path, wanted.offset, wanted.length)
        chunk = wire.ChunkMessage(
            path=wanted.path,
            offset=wanted.offset,
            status=part.status,
            size=part.size,
            data=part.data,
        )
        try:
            await self._transport.publish(
                wire.chunk(device),
                wire.encode(chunk),
                expiry_s=wire.EXPIRY_S["chunk"],
                exchange=Exchange(correlation=request.correlation),
            )
        except TransportError as error:
            _log.warning("%s: %s", device, error.message)
        else:
            self.sent += 1

    def _done(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._room.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            told = error.message if isinstance(error, EdgetrtError) else repr(error)
            _log.error("a request could not be answered: %s", told)

    def _refuse(self, topic: str, why: str) -> None:
        self.refused += 1
        level = logging.WARNING if self.refused == 1 else logging.DEBUG
        _log.log(level, "refused a request on %s: %s", topic[:200], why)


def _understood(message: Message) -> tuple[str, Request]:
    """Who asks for what; the broker vouches for the name in the topic.

    Raises:
        MessageError: it is no request.
    """
    address = wire.parse(message.topic)
    if address.topic.name != "fetch":
        raise MessageError("not a request for a part of a file")
    if len(message.payload) > MOST_BYTES or message.retained:
        raise MessageError(f"{len(message.payload)} bytes, or kept by the broker")
    told = message.exchange
    if told.response_topic not in ("", wire.chunk(address.device)):
        raise MessageError(f"to be answered on {told.response_topic[:200]!r}")
    if not 0 < len(told.correlation) <= _MOST_CORRELATION:
        raise MessageError(f"correlation data of {len(told.correlation)} bytes")
    wanted = wire.decode(wire.FetchMessage, message.payload)
    return address.device, Request(wanted, told.correlation, message.expires_ns)
