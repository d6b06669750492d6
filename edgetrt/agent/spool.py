"""What waits for the broker, in an SQLite file: one writer, a transaction per batch.

With the write-ahead log a killed process loses nothing that was committed. A file that is damaged is
moved aside and a new one begun, because a device that cannot report helps nobody.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edgetrt.agent.entry import Entry, Key, Moment, Priority, age_s
from edgetrt.config import KeepConfig, OutboxConfig
from edgetrt.errors import StoreError

_log = logging.getLogger(__name__)
T = TypeVar("T")

_VERSION = 1
_TRIM = 256
_PAGE = 4096
# EXTRA: what was committed outlives a power cut, and so does the end of the journal with which the file
# begins; by NORMAL all that came since the last checkpoint may be gone. It is one flush a commit.
_SCHEMA = f"""
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA synchronous = EXTRA;
PRAGMA journal_mode = WAL;
PRAGMA journal_size_limit = 4194304;
CREATE TABLE IF NOT EXISTS outbox (
  class INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
  wall REAL NOT NULL, mono_ns INTEGER NOT NULL, boot TEXT NOT NULL,
  size INTEGER NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS place ON outbox (class, epoch, seq, size);
PRAGMA user_version = {_VERSION};
"""
_INSERT = "INSERT OR IGNORE INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SELECT = (
    "SELECT epoch, seq, topic, payload, wall, mono_ns, boot FROM outbox"
    " WHERE class = ? AND (epoch, seq) > (?, ?) ORDER BY epoch, seq LIMIT ?"
)
_DELETE = "DELETE FROM outbox WHERE class = ? AND epoch = ? AND seq = ?"
_DELETE_RUN = "DELETE FROM outbox WHERE class = ? AND epoch = ? AND seq BETWEEN ? AND ?"
_TYPES = (int, int, str, bytes, float, int, str)


@dataclass(frozen=True, slots=True)
class Depth:
    """How much of a class is stored."""

    rows: int = 0
    bytes: int = 0


class Spool:
    """The file. Used by one thread at a time; every method may take as long as the disk does.

    Args:
        path: of the file; its folder is made.
        config: limits.

    Attributes:
        moved_aside: files found damaged by this object.

    Raises:
        StoreError: it cannot be opened or written: no folder, read-only, full, or in use.
    """

    def __init__(self, path: Path, config: OutboxConfig) -> None:
        self.path = path
        self.moved_aside = 0
        self._limits: dict[Priority, KeepConfig] = {
            Priority.EVENT: config.event,
            Priority.HEALTH: config.health,
            Priority.RESULT: config.result,
        }
        self._most_bytes = config.max_mb * 1e6
        self._leave_free_bytes = config.leave_free_mb * 1e6
        # The limits are on what is said; the index and what is added before the limits are looked at
        # may take as much again.
        self._most_pages = int((config.max_mb + config.memory_mb) * 2e6 / _PAGE) + 64
        self._depths = dict.fromkeys(Priority, Depth())
        self._base: sqlite3.Connection | None = None
        self._guarded(lambda: None)

    @property
    def depths(self) -> dict[Priority, Depth]:
        """What is stored now, by class."""
        return dict(self._depths)

    def commit(
        self,
        added: Sequence[Entry],
        removed: Mapping[tuple[Priority, Key], int],
        busy: Collection[Key],
        now: Moment,
    ) -> list[tuple[Priority, Key]]:
        """Add and remove in one transaction, and keep to the limits.

        Args:
            added: new entries; one that is stored already is left as it is.
            removed: entries that the broker acknowledged, with their sizes.
            busy: entries that are being sent, which no limit removes.
            now: for the ages.

        Returns:
            What the limits removed, oldest of the lowest class first.

        Raises:
            StoreError: nothing was changed.
        """
        return self._guarded(lambda: self._commit(added, removed, busy, now))

    def oldest(self, priority: Priority, after: Key, limit: int) -> list[Entry]:
        """The first entries of a class behind a place; raises StoreError."""
        return self._guarded(lambda: self._oldest(priority, after, limit))

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._base is not None:
            with contextlib.suppress(sqlite3.Error):
                self._base.close()
            self._base = None

    def _commit(
        self,
        added: Sequence[Entry],
        removed: Mapping[tuple[Priority, Key], int],
        busy: Collection[Key],
        now: Moment,
    ) -> list[tuple[Priority, Key]]:
        if added:
            self._check_room(sum(entry.size for entry in added))
        before = dict(self._depths)
        try:
            with _transaction(self._open()) as base:
                self._delete(base, removed)
                self._insert(base, added)
                return self._trim(base, busy, now)
        except BaseException:
            self._depths = before
            raise

    def _check_room(self, size: int) -> None:
        """Leave others some of the disk; what is removed needs room for its log, too.

        What is added is written twice: to the log, and from there to its place.
        """
        found = os.statvfs(self.path.parent)
        free = found.f_bavail * found.f_frsize
        if free < self._leave_free_bytes + 2 * size:
            raise OSError(
                errno.ENOSPC, f"{free / 1e6:.1f} MB free, {self._leave_free_bytes / 1e6:g} are left"
            )

    def _insert(self, base: sqlite3.Connection, added: Sequence[Entry]) -> None:
        for priority in Priority:
            rows = [
                (priority, e.epoch, e.seq, e.wall, e.mono_ns, e.boot, e.size, e.topic, e.payload)
                for e in added
                if e.priority is priority
            ]
            count = base.executemany(_INSERT, rows).rowcount if rows else 0
            if count == len(rows):
                self._grow(priority, count, sum(row[6] for row in rows))
            else:
                self._depths = _count(base)

    def _delete(
        self, base: sqlite3.Connection, removed: Mapping[tuple[Priority, Key], int]
    ) -> None:
        for priority in Priority:
            keys = sorted(key for of, key in removed if of is priority)
            # Few statements for many rows: at each, the interpreter changes over to another thread.
            rows = [(priority, *run) for run in _runs(keys)]
            count = base.executemany(_DELETE_RUN, rows).rowcount if rows else 0
            if count == len(keys):
                size = sum(removed[priority, key] for key in keys)
                self._grow(priority, -count, -size)
            else:
                self._depths = _count(base)

    def _trim(
        self, base: sqlite3.Connection, busy: Collection[Key], now: Moment
    ) -> list[tuple[Priority, Key]]:
        """Remove what is too old, then what is too much of a class, then what is too much in all."""
        gone: list[tuple[Priority, Key]] = []
        for priority in reversed(Priority):
            limit = self._limits[priority]

            def too_old(
                wall: float, mono_ns: int, boot: str, most: float = limit.max_age_s
            ) -> bool:
                return age_s(wall, mono_ns, boot, now) > most

            def too_much(*_: object, of: Priority = priority, most: float = limit.max_mb) -> bool:
                return self._depths[of].bytes > most * 1e6

            def too_much_in_all(*_: object) -> bool:
                return sum(depth.bytes for depth in self._depths.values()) > self._most_bytes

            for wanted in (too_old, too_much, too_much_in_all):
                gone += self._remove_while(base, priority, busy, wanted)
        return gone

    def _remove_while(
        self,
        base: sqlite3.Connection,
        priority: Priority,
        busy: Collection[Key],
        wanted: Callable[[float, int, str], bool],
    ) -> list[tuple[Priority, Key]]:
        """Remove the oldest of a class for as long as `wanted` says so of the next."""
        gone: list[tuple[Priority, Key]] = []
        after = (-1, -1)
        while self._depths[priority].rows:
            rows = base.execute(
                "SELECT epoch, seq, size, wall, mono_ns, boot FROM outbox"
                " WHERE class = ? AND (epoch, seq) > (?, ?) ORDER BY epoch, seq LIMIT ?",
                (priority, *after, _TRIM),
            ).fetchall()
            for epoch, seq, size, *when in rows:
                if not wanted(*when):
                    return gone
                after = (epoch, seq)
                if after not in busy:
                    base.execute(_DELETE, (priority, epoch, seq))
                    self._grow(priority, -1, -size)
                    gone.append((priority, after))
            if len(rows) < _TRIM:
                break
        return gone

    def _grow(self, priority: Priority, rows: int, size: int) -> None:
        depth = self._depths[priority]
        self._depths[priority] = Depth(depth.rows + rows, depth.bytes + size)

    def _oldest(self, priority: Priority, after: Key, limit: int) -> list[Entry]:
        rows = self._open().execute(_SELECT, (priority, *after, limit)).fetchall()
        if any(tuple(map(type, row)) != _TYPES for row in rows):
            raise sqlite3.DatabaseError(f"a row of class {priority.label} holds no message")
        return [Entry(priority, *row) for row in rows]

    def _open(self) -> sqlite3.Connection:
        if self._base is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            base = sqlite3.connect(
                self.path, timeout=0.0, isolation_level=None, check_same_thread=False
            )
            try:
                _check_version(base)
                base.executescript(_SCHEMA)
                base.execute(f"PRAGMA max_page_count = {self._most_pages}")
                self._depths = _count(base)
            except BaseException:
                base.close()
                raise
            self._base = base
        return self._base

    def _guarded(self, step: Callable[[], T]) -> T:
        """Run a step; a damaged file is replaced once, and every other failure is StoreError."""
        try:
            try:
                self._open()
                return step()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self._move_aside(error)
                self._open()
                return step()
        except (sqlite3.Error, OSError) as error:
            # A full disk can still be read, and a file on it may not open again.
            if "full" not in str(error) and getattr(error, "errno", None) != errno.ENOSPC:
                self.close()
            raise StoreError(
                f"outbox {self.path}: {error}",
                "Is the disk full, read-only or missing, or does another agent use the file?",
            ) from error

    def _move_aside(self, why: sqlite3.DatabaseError) -> None:
        """Keep a damaged file for a look at it, one at most."""
        self.close()
        self._depths = dict.fromkeys(Priority, Depth())
        aside = self.path.with_name(self.path.name + ".damaged")
        self.path.replace(aside)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self.moved_aside += 1
        _log.warning("outbox %s: damaged, moved to %s: %s", self.path, aside, why)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is at fault, and not the disk or another process."""
    if isinstance(error, sqlite3.OperationalError):
        return "decode" in str(error)  # a text that is none
    return not isinstance(error, sqlite3.IntegrityError)


def _runs(keys: Sequence[Key]) -> Iterator[tuple[int, int, int]]:
    """Epoch, first and last of each run of consecutive numbers in sorted keys."""
    start = 0
    for at in range(1, len(keys) + 1):
        (epoch, seq) = keys[at - 1]
        if at == len(keys) or keys[at] != (epoch, seq + 1):
            yield epoch, keys[start][1], seq
            start = at


def _check_version(base: sqlite3.Connection) -> None:
    (version,) = base.execute("PRAGMA user_version").fetchone()
    if version not in (0, _VERSION):
        raise sqlite3.DatabaseError(f"layout {version}, expected {_VERSION}")


def _count(base: sqlite3.Connection) -> dict[Priority, Depth]:
    rows = base.execute("SELECT class, count(*), sum(size) FROM outbox GROUP BY class").fetchall()
    if not {number for number, *_ in rows} <= set(Priority):
        raise sqlite3.DatabaseError(f"classes {rows}")
    found = {Priority(number): Depth(count, size) for number, count, size in rows}
    return {priority: found.get(priority, Depth()) for priority in Priority}


@contextlib.contextmanager
def _transaction(base: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing."""
    base.execute("BEGIN IMMEDIATE")
    try:
        yield base
        base.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            base.execute("ROLLBACK")
        raise
