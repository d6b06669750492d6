"""Entries, moments and a disk that fails when told to, for the tests of what waits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from edgetrt.agent.entry import Entry, Key, Moment, Priority
from edgetrt.agent.spool import Depth, Spool
from edgetrt.config import KeepConfig, OutboxConfig
from edgetrt.errors import StoreError

NOW = Moment(1_800_000_000.0, 50_000_000_000, "boot")
ENDLESS = KeepConfig(max_mb=1000.0, max_age_s=1e9)
ROOMY = OutboxConfig(
    event=ENDLESS, health=ENDLESS, result=ENDLESS, historical_hz=None, commit_s=0.01
)
MARKABLE = b'{"historical":false}'


def entry(
    seq: int,
    priority: Priority = Priority.RESULT,
    epoch: int = 1,
    payload: bytes = MARKABLE,
    at: Moment = NOW,
) -> Entry:
    return Entry(priority, epoch, seq, priority.label, payload, at.wall, at.mono_ns, at.boot)


def seqs(spool: Spool, priority: Priority = Priority.RESULT) -> list[int]:
    return [found.seq for found in spool.oldest(priority, (-1, -1), 1_000_000)]


class FragileStore:
    """A real spool on a disk that can be taken away."""

    def __init__(self, path: Path, config: OutboxConfig, disk: Disk) -> None:
        disk.check()
        self._disk = disk
        self._spool = Spool(path, config)

    @property
    def moved_aside(self) -> int:
        return self._spool.moved_aside

    @property
    def depths(self) -> dict[Priority, Depth]:
        return self._spool.depths

    def commit(
        self,
        added: Sequence[Entry],
        removed: Mapping[tuple[Priority, Key], int],
        busy: Collection[Key],
        now: Moment,
    ) -> list[tuple[Priority, Key]]:
        self._disk.check()
        return self._spool.commit(added, removed, busy, now)

    def oldest(self, priority: Priority, after: Key, limit: int) -> list[Entry]:
        self._disk.check()
        return self._spool.oldest(priority, after, limit)

    def close(self) -> None:
        self._spool.close()


class Disk:
    """Whether the disk works now."""

    def __init__(self) -> None:
        self.works = True

    def check(self) -> None:
        if not self.works:
            raise StoreError("outbox: database or disk is full")
