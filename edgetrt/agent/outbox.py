"""Messages on their way to the broker: what is new first, then what waited, oldest first.

A message is deleted when the broker acknowledges it for someone who subscribes, and at no other time
but two: a limit of `outbox` in the config is reached, or the broker refuses it. Both are counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from edgetrt import wire
from edgetrt.agent.entry import Entry, Key, Moment, Priority
from edgetrt.agent.keeper import Keeper, Store
from edgetrt.errors import NotConnectedError, TransportError, UnheardError

if TYPE_CHECKING:
    from edgetrt.config import OutboxConfig
    from edgetrt.ports import Transport

_log = logging.getLogger(__name__)

_CHUNK = 512
"""Entries read from the disk at a time."""
_LIVE = 2048
_RETRY_S = 30.0
_DEAF_S = 30.0
_ORIGIN: Key = (-1, -1)
_EXPIRY_S = {priority: wire.EXPIRY_S[priority.label] for priority in Priority}


class Outbox:
    """Publishes entries, several at a time, and keeps what cannot leave.

    Args:
        transport: where entries go.
        epoch: of this agent; counts are about its entries.
        open_store: opens the disk; None = memory only.
        config: limits.
        now: by both clocks.
        in_flight: entries handed to the transport at a time.
        retry_s: pause before a disk that failed is tried again.

    Attributes:
        published: results of this epoch that the broker acknowledged.
        unsent: results of this epoch given up: a limit was reached, or the broker refused them.
        pending: results of this epoch that wait.
        recovered: entries of earlier epochs that the broker acknowledged.
        dropped: entries that a limit removed, by class, of any epoch.
    """

    def __init__(
        self,
        transport: Transport,
        epoch: int,
        open_store: Callable[[], Store] | None,
        config: OutboxConfig,
        now: Callable[[], Moment],
        in_flight: int = 64,
        retry_s: float = _RETRY_S,
    ) -> None:
        self.published = self.unsent = self.pending = self.recovered = 0
        self.dropped = dict.fromkeys(Priority, 0)
        self._transport = transport
        self._epoch = epoch
        self._in_flight = in_flight
        self._flying: dict[Key, Entry] = {}
        self._live: dict[Priority, deque[Entry]] = {priority: deque() for priority in Priority}
        self._live_bytes = 0
        self._most_live_bytes = config.memory_mb * 5e5
        self._backlog: deque[Entry] = deque()
        self._busy: set[Key] = set()
        self._pace = TokenBucket(config.historical_hz)
        self._keep_unheard = config.unheard == "keep"
        self._deaf_s = 0.0
        self._ears: asyncio.TimerHandle | None = None
        self._refused = ""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._scheduled = False
        self._refill: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._passed_by = 0
        self._turns = 0
        self.keeper = Keeper(
            open_store,
            config.memory_mb * 1e6,
            config.commit_s,
            retry_s,
            now,
            self._busy,
            self._on_dropped,
        )
        self._rewind()

    @property
    def unheard(self) -> bool:
        """Whether nobody subscribed to what was published last."""
        return self._deaf_s > 0

    def put(self, entry: Entry) -> None:
        """Take an entry: it leaves at once when there is a connection, and waits when there is none."""
        self._count_in(entry)
        live = self._live[entry.priority]
        if (
            self._transport.state.connected
            and len(live) < _LIVE
            and self._live_bytes + entry.size <= self._most_live_bytes
        ):
            live.append(entry)
            self._live_bytes += entry.size
            self._busy.add(entry.key)
            self._schedule()
        else:
            self._exhausted = False
            self._passed_by += 1
        self.keeper.add(entry)

    async def run(self) -> None:
        """Publish what is put and what waits, until cancelled."""
        keeping = asyncio.create_task(self.keeper.run())
        following = asyncio.create_task(self._follow())
        try:
            await asyncio.gather(keeping, following)
        finally:
            for task in (keeping, following, self._refill):
                if task is not None:
                    task.cancel()
            for timer in (self._timer, self._ears):
                if timer is not None:
                    timer.cancel()

    async def flush(self, timeout_s: float) -> None:
        """Wait until nothing new is under way, `timeout_s` at most; what waited longer goes on waiting."""
        deadline = self._loop.time() + timeout_s
        while self._transport.state.connected and self._under_way():
            left = deadline - self._loop.time()
            if left <= 0:
                return
            self._settled.clear()
            try:
                await asyncio.wait_for(self._settled.wait(), left)
            except asyncio.TimeoutError:
                return

    def _under_way(self) -> bool:
        waits = self.keeper.volatile and self.pending > 0
        return bool(self._flying or waits or any(self._live.values()))

    async def close(self) -> None:
        """Bring the disk up to date and free it."""
        await self.keeper.close()

    async def _follow(self) -> None:
        """Start over on each connection: what was under way is what waits now."""
        async for state in self._transport.states():
            if not state.connected:
                for live in self._live.values():
                    live.clear()
                self._live_bytes = 0
                self._deaf_s = 0.0
                self._start_over()
                self._settled.set()
            self._schedule()

    def _start_over(self) -> None:
        """Look through all that waits from its beginning."""
        self._backlog.clear()
        self._busy.clear()
        self._busy.update(self._flying)
        self._busy.update(entry.key for live in self._live.values() for entry in live)
        if self._ears is not None:
            self._ears.cancel()
            self._ears = None
        self._rewind()
        self._schedule()

    def _rewind(self) -> None:
        self._place = dict.fromkeys(Priority, _ORIGIN)
        self._exhausted = False
        self._turns += 1

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Hand over as much as may be under way."""
        self._scheduled = False
        while self._transport.state.connected and len(self._flying) < self._in_flight:
            entry, historical = self._next()
            if entry is None:
                return
            if not self._post(entry, historical):
                return

    def _post(self, entry: Entry, historical: bool) -> bool:
        self._flying[entry.key] = entry
        payload = wire.as_historical(entry.payload) if historical else entry.payload
        done = partial(self._done, entry)
        expiry_s = _EXPIRY_S[entry.priority]
        try:
            self._transport.post(entry.topic, payload, done, expiry_s=expiry_s)
        except TransportError as error:
            self._done(entry, error)
            return not isinstance(error, NotConnectedError)
        return True

    def _next(self) -> tuple[Entry | None, bool]:
        """What leaves next, and whether it waited."""
        for live in self._live.values():
            if live:
                entry = live.popleft()
                self._live_bytes -= entry.size
                return entry, False
        if self._ears is not None or (self.unheard and self._flying):
            return None, False
        if len(self._backlog) < _CHUNK // 2 and not self._exhausted and self._refill is None:
            self._refill = self._loop.create_task(self._fill())
        if not self._backlog:
            return None, False
        wait_s = self._pace.wait_s(self._loop.time())
        if wait_s > 0:
            if self._timer is None:
                self._timer = self._loop.call_later(wait_s, self._paced)
            return None, False
        return self._backlog.popleft(), True

    def _paced(self) -> None:
        self._timer = None
        self._pump()

    async def _fill(self) -> None:
        """Read the next entries that wait, the most important class first."""
        turn, passed_by = self._turns, self._passed_by
        try:
            room = _CHUNK
            found_any = False
            for priority in Priority:
                found = await self.keeper.oldest(priority, self._place[priority], room)
                if turn != self._turns:
                    return
                if found:
                    found_any = True
                    self._place[priority] = found[-1].key
                for entry in found:
                    if entry.key not in self._busy:
                        self._busy.add(entry.key)
                        self._backlog.append(entry)
                room -= len(found)
                if room <= 0:
                    break
            self._exhausted = not found_any and passed_by == self._passed_by
        finally:
            self._refill = None
            self._schedule()

    def _done(self, entry: Entry, error: TransportError | None) -> None:
        """What became of an entry that was handed over."""
        key = entry.key
        self._flying.pop(key, None)
        self._busy.discard(key)
        if isinstance(error, NotConnectedError):
            self._rewind()
        elif isinstance(error, UnheardError) and self._keep_unheard:
            self._no_ear()
        else:
            if error is None and self.unheard:
                self._deaf_s = 0.0
                self._start_over()
            self.keeper.forget(entry)
            self._count_out(entry, None if isinstance(error, UnheardError) else error)
        if not self._flying:
            self._settled.set()
        self._schedule()

    def _no_ear(self) -> None:
        """Try what waits again after a while, one message at a time until someone subscribes."""
        if self._ears is None:
            self._deaf_s = min(max(1.0, 2 * self._deaf_s), _DEAF_S)
            self._ears = self._loop.call_later(self._deaf_s, self._start_over)

    def _count_in(self, entry: Entry) -> None:
        self.pending += entry.priority is Priority.RESULT and entry.epoch == self._epoch

    def _count_out(self, entry: Entry, error: TransportError | None) -> None:
        if entry.epoch != self._epoch:
            self.recovered += error is None
        elif entry.priority is Priority.RESULT:
            self.pending -= 1
            self.published += error is None
            self.unsent += error is not None
        if error is not None and error.message != self._refused:
            self._refused = error.message
            _log.warning("%s", error.message)

    def _on_dropped(self, dropped: list[tuple[Priority, Key]]) -> None:
        for priority, (epoch, _) in dropped:
            self.dropped[priority] += 1
            if epoch == self._epoch and priority is Priority.RESULT:
                self.pending -= 1
                self.unsent += 1


class TokenBucket:
    """Lets through at a rate, with a tenth of a second's worth at once.

    Args:
        rate_hz: None = without limit.
    """

    def __init__(self, rate_hz: float | None) -> None:
        self._rate_hz = rate_hz
        self._burst = max(1.0, (rate_hz or 0.0) / 10)
        self._tokens = self._burst
        self._at_s: float | None = None

    def wait_s(self, now_s: float) -> float:
        """Take a place and return 0, or return how long to wait for one."""
        if self._rate_hz is None:
            return 0.0
        passed_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        self._at_s = now_s
        self._tokens = min(self._burst, self._tokens + passed_s * self._rate_hz)
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self._rate_hz
