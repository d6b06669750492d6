"""The disk's thread is asked for what the disk holds, and for nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from edgetrt.agent.entry import Entry, Key, Priority
from edgetrt.agent.keeper import Keeper
from edgetrt.agent.spool import Spool
from edgetrt.errors import StoreError
from tests.agent.waiting import NOW, ROOMY, entry

BEGINNING: Key = (-1, -1)


class WatchedSpool(Spool):
    """Remembers which classes were asked for, and fails as often as it is told to."""

    asked: list[Priority]
    failures = 0

    def oldest(self, priority: Priority, after: Key, limit: int) -> list[Entry]:
        self.asked.append(priority)
        if self.failures:
            self.failures -= 1
            raise StoreError("the disk is away")
        return super().oldest(priority, after, limit)


def keeper(open_store: Callable[[], Spool]) -> Keeper:
    return Keeper(open_store, 1e6, 0.01, 1.0, lambda: NOW, frozenset(), lambda _: None)


@pytest.fixture
def spool(tmp_path: Path) -> WatchedSpool:
    """With a result in it."""
    made = WatchedSpool(tmp_path / "a.db", ROOMY)
    made.asked = []
    made.commit([entry(1)], {}, [], NOW)
    return made


def look(spool: WatchedSpool, *rounds: Priority) -> list[list[int]]:
    async def scenario() -> list[list[int]]:
        kept = keeper(lambda: spool)
        found = [await kept.oldest(priority, BEGINNING, 10) for priority in rounds]
        await kept.close()
        return [[each.seq for each in entries] for entries in found]

    return asyncio.run(scenario())


def test_a_class_that_the_disk_does_not_hold_is_not_asked_for(spool: WatchedSpool) -> None:
    rounds = [Priority.RESULT, Priority.EVENT, Priority.HEALTH, Priority.RESULT]

    assert look(spool, *rounds) == [[1], [], [], [1]]
    assert spool.asked == [Priority.RESULT, Priority.RESULT]


def test_a_disk_that_failed_at_first_is_asked_again(spool: WatchedSpool) -> None:
    spool.failures = 1

    assert look(spool, Priority.RESULT, Priority.RESULT) == [[], [1]]
