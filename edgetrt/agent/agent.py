"""The agent: results and health from the local link to the broker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from edgetrt import wire
from edgetrt.agent.health import LinkLosses, Pipelines, health_message
from edgetrt.agent.identity import resident_bytes
from edgetrt.agent.limiter import RateLimiter
from edgetrt.agent.outbox import Entry, MemoryStore, Outbox, Store
from edgetrt.agent.session import Session
from edgetrt.errors import MessageError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetrt.agent.identity import Identity
    from edgetrt.config import PublishConfig
    from edgetrt.link import Receiver
    from edgetrt.ports import Transport

_log = logging.getLogger(__name__)

_BATCH = 64
"""Datagrams taken before the event loop turns to others."""
_FLUSH_S = 2.0
_GOODBYE_S = 1.0
_QUIET_S = 0.1
"""Between two health messages at least, however often a pipeline changes its state."""


class Agent:
    """Takes datagrams from the runtime and publishes them, until told to stop.

    The link is read in the event loop's own callback and never waits for the broker: what cannot be
    published is dropped and counted.

    Args:
        identity: who.
        config: what is published and how often.
        transport: the connection to the broker, not yet entered.
        receiver: the agent's end of the local link.
        store: where results wait for the broker.
        monotonic_ns: clock of rates, ages and of `Frame.captured_ns`.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        identity: Identity,
        config: PublishConfig,
        transport: Transport,
        receiver: Receiver,
        *,
        store: Store | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._identity = identity
        self._config = config
        self._transport = transport
        self._receiver = receiver
        self._monotonic_ns = monotonic_ns
        self._wall = wall
        self._started_ns = monotonic_ns()
        self._store = MemoryStore() if store is None else store
        self._pipelines = Pipelines()
        self._losses = LinkLosses()
        self._limiters: dict[str, RateLimiter] = {}
        self._seq = 0
        self._received = 0
        self._limited = 0
        self._malformed = 0

    @property
    def stats(self) -> wire.AgentReport:
        """What the agent has done so far; only while it runs."""
        return wire.AgentReport(
            rss_bytes=resident_bytes(),
            uptime_s=round((self._monotonic_ns() - self._started_ns) * 1e-9, 3),
            received=self._received,
            published=self._outbox.published,
            limited=self._limited,
            unsent=self._outbox.unsent,
            pending=self._outbox.pending,
            malformed=self._malformed + self._receiver.refused,
            link_dropped=self._losses.total,
            reconnects=self._session.reconnects,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set; then send what is pending, and say goodbye."""
        self._outbox = Outbox(self._transport, self._store)
        self._health_due = asyncio.Event()
        self._session = Session(self._identity, self._transport, self._wall, self._health_due.set)
        async with self._transport:
            parts = [
                asyncio.create_task(part)
                for part in (self._outbox.run(), self._session.run(), self._tell_health())
            ]
            try:
                await self._serve(stop, parts)
                await asyncio.wait_for(self._finish(), _FLUSH_S + _GOODBYE_S)
            except asyncio.TimeoutError:
                _log.warning("stopped with %d results unacknowledged", self._outbox.pending)
            finally:
                for part in parts:
                    part.cancel()
                await asyncio.wait(parts)

    async def _serve(self, stop: asyncio.Event, parts: list[asyncio.Task[None]]) -> None:
        """Read the link until `stop`; a part that ends before that is a fault, and is raised."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._receiver.fileno(), self._read_link)
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([stopped, *parts], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            loop.remove_reader(self._receiver.fileno())
        for part in done - {stopped}:
            part.result()

    async def _finish(self) -> None:
        """Send what is here, then the last health, with which an observer can reconcile."""
        self._read_link()
        await self._outbox.flush(_FLUSH_S)
        if self._transport.state.connected:
            await self._publish_health()
        await self._session.goodbye()

    def _read_link(self) -> None:
        for _ in range(_BATCH):
            refused = self._receiver.refused
            datagram = self._receiver.receive()
            if datagram is not None:
                self._take(datagram)
            elif self._receiver.refused == refused:
                return

    def _take(self, datagram: bytes) -> None:
        """Deal with one datagram of the runtime."""
        try:
            message = wire.decode_link(datagram)
            topic = wire.result(self._identity.device, message.pipeline)
        except MessageError as error:
            return self._refuse(error.message)
        if isinstance(message, wire.FrameResult):
            return self._take_result(topic, message)
        if not isinstance(message, wire.PipelineReport):
            return self._refuse(f"{type(message).__name__}, which is not for the agent")
        if self._pipelines.put(message, self._monotonic_ns()):
            self._health_due.set()
        return None

    def _refuse(self, why: str) -> None:
        self._malformed += 1
        if self._malformed == 1:
            _log.warning("local link: refused a datagram: %s", why)

    def _take_result(self, topic: str, frame: wire.FrameResult) -> None:
        now_ns = self._monotonic_ns()
        self._received += 1
        self._losses.put(frame.pipeline, frame.unsent)
        limiter = self._limiters.get(frame.pipeline)
        if limiter is None:
            limiter = self._limiters[frame.pipeline] = RateLimiter(self._config.result_hz)
        if not limiter.allow(now_ns):
            self._limited += 1
            return
        message = wire.stamp(
            frame,
            device=self._identity.device,
            epoch=self._identity.epoch,
            seq=self._next_seq(),
            time_s=self._wall() - (now_ns - frame.mono_ns) * 1e-9,
            boot=self._identity.boot,
        )
        self._outbox.put(Entry(message.seq, topic, wire.encode(message)))

    async def _tell_health(self) -> None:
        """Publish health on a period and when it is due, until cancelled."""
        while True:
            await _wait(self._health_due, self._config.health_s)
            self._health_due.clear()
            if self._transport.state.connected:
                await self._publish_health()
            await asyncio.sleep(_QUIET_S)

    async def _publish_health(self) -> None:
        reports = self._pipelines.reports(self._monotonic_ns())
        message = health_message(
            self._identity, self._next_seq(), self._wall(), self.stats, reports
        )
        try:
            await self._transport.publish(wire.health(self._identity.device), wire.encode(message))
        except TransportError as error:
            _log.warning("health: %s", error.message)

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq - 1


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), timeout_s)
