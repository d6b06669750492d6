"""Messages on their way to the broker, bounded."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edgetrt.errors import NotConnectedError, TransportError

if TYPE_CHECKING:
    from edgetrt.ports import Transport

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A message that waits for its acknowledgement; `seq` is its place in the order."""

    seq: int
    topic: str
    payload: bytes


class Store(Protocol):
    """Where entries wait."""

    def append(self, entry: Entry) -> bool:
        """Keep an entry; False when there is no room."""

    def oldest(self, after: int, limit: int) -> list[Entry]:
        """The first entries with a `seq` above `after`."""

    def remove(self, seq: int) -> None:
        """Forget an entry; no effect when it is not there."""

    def __len__(self) -> int: ...


class MemoryStore:
    """A `Store` that lives as long as the process.

    Args:
        limit: entries at most.
    """

    def __init__(self, limit: int = 512) -> None:
        self._limit = limit
        self._entries: dict[int, Entry] = {}

    def append(self, entry: Entry) -> bool:
        """Keep an entry; False when there is no room."""
        if len(self._entries) >= self._limit:
            return False
        self._entries[entry.seq] = entry
        return True

    def oldest(self, after: int, limit: int) -> list[Entry]:
        """The first entries with a `seq` above `after`."""
        waiting = [entry for seq, entry in self._entries.items() if seq > after]
        return waiting[:limit]

    def remove(self, seq: int) -> None:
        """Forget an entry; no effect when it is not there."""
        self._entries.pop(seq, None)

    def __len__(self) -> int:
        return len(self._entries)


class Outbox:
    """Publishes entries in order, several at a time, and counts what became of each.

    Nothing is taken while there is no connection: an entry that cannot leave is given up and counted.

    Args:
        transport: where entries go.
        store: where they wait.
        in_flight: entries handed to the transport at a time.

    Attributes:
        published: entries that the broker acknowledged.
        unsent: entries given up.
    """

    def __init__(self, transport: Transport, store: Store, in_flight: int = 64) -> None:
        self.published = 0
        self.unsent = 0
        self._transport = transport
        self._store = store
        self._in_flight = in_flight
        self._cursor = -1
        self._sending: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._refused = ""

    @property
    def pending(self) -> int:
        """Entries that were taken and have not come to an end."""
        return len(self._store)

    def put(self, entry: Entry) -> bool:
        """Take an entry; False when it was given up: no connection, or too many are waiting."""
        if not self._transport.state.connected or not self._store.append(entry):
            self.unsent += 1
            return False
        self._changed.set()
        return True

    async def run(self) -> None:
        """Publish what is put, until cancelled."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                room = self._in_flight - len(self._sending)
                for entry in self._store.oldest(self._cursor, room):
                    self._cursor = entry.seq
                    self._start(entry)
        finally:
            for task in self._sending:
                task.cancel()

    async def flush(self, timeout_s: float) -> None:
        """Wait until nothing is pending, `timeout_s` at most."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self.pending and (left := deadline - asyncio.get_running_loop().time()) > 0:
            if not self._sending:
                await asyncio.sleep(0)
                continue
            await asyncio.wait(self._sending, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    def _start(self, entry: Entry) -> None:
        task = asyncio.create_task(self._send(entry))
        self._sending.add(task)
        task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._changed.set()

    async def _send(self, entry: Entry) -> None:
        try:
            await self._transport.publish(entry.topic, entry.payload)
        except NotConnectedError:
            self.unsent += 1
        except TransportError as error:
            self.unsent += 1
            if error.message != self._refused:
                self._refused = error.message
                _log.warning("%s", error.message)
        else:
            self.published += 1
        self._store.remove(entry.seq)
