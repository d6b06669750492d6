"""Keeps what waits for the broker: in memory at once, on the disk a moment later.

All disk work is done in one thread of its own, so that a slow disk never holds up the event loop. A
disk that fails leaves everything in memory, bounded, and is tried again from time to time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from edgetrt.agent.entry import Entry, Key, Moment, Priority
from edgetrt.agent.spool import Depth
from edgetrt.errors import StoreError

_log = logging.getLogger(__name__)
T = TypeVar("T")

_URGENT = 1024
"""Entries that are committed without waiting for more."""
_AGES_S = 60.0
"""How often the disk is looked through for what is too old when nothing else happens."""
_UNOPENED = "not opened yet"


class Store(Protocol):
    """A disk; see `edgetrt.agent.spool.Spool`."""

    moved_aside: int

    @property
    def depths(self) -> dict[Priority, Depth]:
        """What is stored now, by class."""

    def commit(
        self,
        added: Sequence[Entry],
        removed: Mapping[tuple[Priority, Key], int],
        busy: Collection[Key],
        now: Moment,
    ) -> list[tuple[Priority, Key]]:
        """Add and remove at once; returns what the limits removed."""

    def oldest(self, priority: Priority, after: Key, limit: int) -> list[Entry]:
        """The first entries of a class behind a place."""

    def close(self) -> None:
        """Free it."""


@dataclass
class Kept:
    """What became of the disk.

    Attributes:
        error: why the disk is not used now; empty while it is.
        moved_aside: damaged files that were replaced.
        commits: transactions so far.
    """

    error: str = ""
    moved_aside: int = 0
    commits: int = 0
    depths: dict[Priority, Depth] = field(default_factory=lambda: dict.fromkeys(Priority, Depth()))


class Keeper:
    """Entries that wait, in the order in which they came.

    Args:
        open_store: opens the disk, raising StoreError; None = memory only.
        memory_bytes: for entries that are not on the disk.
        commit_s: entries wait this long for others to be committed with.
        retry_s: pause before a disk that failed is tried again.
        now: by both clocks.
        busy: entries that are being sent, which no limit removes.
        on_dropped: called with what the limits removed.
    """

    def __init__(
        self,
        open_store: Callable[[], Store] | None,
        memory_bytes: float,
        commit_s: float,
        retry_s: float,
        now: Callable[[], Moment],
        busy: Collection[Key],
        on_dropped: Callable[[list[tuple[Priority, Key]]], None],
    ) -> None:
        self.state = Kept(error="" if open_store is None else _UNOPENED)
        self._open_store = open_store
        self._memory_bytes = memory_bytes
        self._commit_s = commit_s
        self._retry_s = retry_s
        self._now = now
        self._busy = busy
        self._on_dropped = on_dropped
        self._waiting: dict[Priority, OrderedDict[Key, Entry]] = {
            priority: OrderedDict() for priority in Priority
        }
        self._waiting_bytes = 0
        self._writing: frozenset[Key] = frozenset()
        self._removed: dict[tuple[Priority, Key], int] = {}
        self._store: Store | None = None
        self._thread = ThreadPoolExecutor(1, "outbox")
        self._turn = asyncio.Lock()
        self._dirty = asyncio.Event()
        self._urgent = asyncio.Event()

    @property
    def volatile(self) -> bool:
        """Whether what waits lives as long as the process only."""
        return self._open_store is None

    def depth(self, priority: Priority) -> Depth:
        """How much of a class waits, on the disk and in memory."""
        disk = self.state.depths[priority]
        held = self._waiting[priority]
        removed = sum(1 for of, _ in self._removed if of is priority)
        size = sum(entry.size for entry in held.values())
        return Depth(max(0, disk.rows + len(held) - removed), disk.bytes + size)

    def add(self, entry: Entry) -> None:
        """Keep an entry."""
        self._waiting[entry.priority][entry.key] = entry
        self._waiting_bytes += entry.size
        if self._waiting_bytes > self._memory_bytes:
            self._make_room()
        self._dirty.set()
        if len(self._waiting[entry.priority]) >= _URGENT:
            self._urgent.set()

    def forget(self, entry: Entry) -> None:
        """The broker has it, or refuses it for ever."""
        key = entry.key
        if key in self._waiting[entry.priority] and key not in self._writing:
            self._take_out(entry.priority, key)
        elif self._open_store is not None:
            self._removed[entry.priority, key] = entry.size
            self._dirty.set()
            if len(self._removed) >= _URGENT:
                self._urgent.set()

    async def oldest(self, priority: Priority, after: Key, limit: int) -> list[Entry]:
        """The first entries of a class behind a place: those on the disk, then those in memory."""
        async with self._turn:
            found = await self._on_disk(priority, after, limit)
            room = limit - len(found)
            if room:
                last = found[-1].key if found else after
                held = (e for e in self._waiting[priority].values() if e.key > last)
                found += [entry for entry, _ in zip(held, range(room), strict=False)]
            return found

    async def run(self) -> None:
        """Commit what is added and removed, until cancelled."""
        if self._open_store is None:
            return
        while True:
            await self.commit()
            if self.state.error:
                await asyncio.sleep(self._retry_s)
                continue
            await _wait(self._dirty, _AGES_S)
            await _wait(self._urgent, self._commit_s if self._dirty.is_set() else 0.0)

    async def commit(self) -> None:
        """Bring the disk up to date; a failure is told in `state`."""
        if self._open_store is None:
            return
        async with self._turn:
            idle = not self._dirty.is_set()
            self._dirty.clear()
            self._urgent.clear()
            added = [entry for held in self._waiting.values() for entry in held.values()]
            removed = dict(self._removed)
            if not (added or removed or idle or self.state.error):
                return  # acknowledged before it was worth a write
            busy = frozenset(self._busy)
            self._writing = frozenset(entry.key for entry in added)
            try:
                dropped = await self._write(
                    lambda store: store.commit(added, removed, busy, self._now())
                )
                if dropped is None and removed and added:
                    # A full disk may still take a removal, which makes room for the next time.
                    added = []
                    dropped = await self._read(
                        lambda store: store.commit((), removed, busy, self._now())
                    )
            finally:
                self._writing = frozenset()
            if dropped is None:
                return
            self.state.commits += 1
            for gone in removed:
                del self._removed[gone]
            for entry in added:
                if entry.key in self._waiting[entry.priority]:
                    self._take_out(entry.priority, entry.key)
            if dropped:
                self._on_dropped(dropped)

    async def close(self) -> None:
        """Commit what is there, and free the disk; entries added later stay in memory."""
        await self.commit()
        store, self._store, self._open_store = self._store, None, None
        if store is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, store.close)
        self._thread.shutdown(wait=False)

    async def _on_disk(self, priority: Priority, after: Key, limit: int) -> list[Entry]:
        """Stored entries but those that are acknowledged and not deleted yet."""
        while self._open_store is not None and self._may_hold(priority):
            place = after
            rows = await self._read(lambda store, at=place: store.oldest(priority, at, limit))  # type: ignore[misc]
            if not rows:
                break
            found = [entry for entry in rows if (priority, entry.key) not in self._removed]
            if found or len(rows) < limit:
                return found
            after = rows[-1].key
        return []

    def _may_hold(self, priority: Priority) -> bool:
        """Whether the disk has to be asked: a question costs a turn of its thread."""
        return self._store is None or self._store.depths[priority].rows > 0

    async def _write(self, step: Callable[[Store], T]) -> T | None:
        """Change the disk; only that proves that it works."""
        answer = await self._read(step)
        if answer is not None:
            if self.state.error not in ("", _UNOPENED):
                _log.warning("outbox: the disk is back")
            self.state.error = ""
        return answer

    async def _read(self, step: Callable[[Store], T]) -> T | None:
        """Do something with the disk in its thread; None when the disk failed."""
        loop = asyncio.get_running_loop()
        try:
            answer = await loop.run_in_executor(self._thread, self._with_store, step)
        except StoreError as error:
            if self.state.error != error.message:
                _log.warning("%s; going on in memory", error.message)
            self.state.error = error.message
            return None
        if self._store is not None:
            self.state.moved_aside = self._store.moved_aside
            self.state.depths = self._store.depths
        return answer

    def _with_store(self, step: Callable[[Store], T]) -> T:
        if self._store is None:
            if self._open_store is None:
                raise StoreError("outbox: closed")
            self._store = self._open_store()
        return step(self._store)

    def _make_room(self) -> None:
        """Drop the oldest of the lowest class; what is being written or sent stays."""
        dropped: list[tuple[Priority, Key]] = []
        for priority in reversed(Priority):
            held = self._waiting[priority]
            over = self._waiting_bytes - self._memory_bytes
            victims = []
            for key, entry in held.items():
                if over <= 0:
                    break
                if key not in self._writing and key not in self._busy:
                    victims.append(key)
                    over -= entry.size
            for key in victims:
                self._take_out(priority, key)
                dropped.append((priority, key))
        if dropped:
            self._on_dropped(dropped)

    def _take_out(self, priority: Priority, key: Key) -> None:
        self._waiting_bytes -= self._waiting[priority].pop(key).size


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), timeout_s)
