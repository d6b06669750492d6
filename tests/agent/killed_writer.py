"""Kills processes while they commit, and looks at what they leave: `killed_writer FOLDER COUNT`.

`killed_writer FILE --commits N` commits so often, prints a dot for each, and ends.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable, Set
from pathlib import Path

from edgetrt.agent.entry import Priority
from edgetrt.agent.spool import Spool
from tests.agent.waiting import NOW, ROOMY, entry

BATCH = 7
ACKNOWLEDGED = 3
"""Of each batch, so many are removed in the commit after it."""


def write(path: Path, told: Callable[[int], object], numbers: Iterable[int]) -> None:
    """Commit, and tell the number of commits once each is done."""
    spool = Spool(path, ROOMY)
    for number in numbers:
        removed = {
            (Priority.RESULT, (1, (number - 1) * BATCH + seq)): entry(0).size
            for seq in range(ACKNOWLEDGED if number else 0)
        }
        added = [entry(number * BATCH + seq) for seq in range(BATCH)]
        spool.commit(added, removed, [], NOW)
        told(number + 1)


def kill_one(path: Path, lives_s: float) -> int:
    """Let a process write, kill it; returns how many commits it had told."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write(path, lambda n: os.write(theirs, n.to_bytes(4, "big")), itertools.count())
        finally:
            os._exit(1)
    os.close(theirs)
    first = os.read(ours, 4)  # it is under way
    time.sleep(lives_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told = first
    while more := os.read(ours, 65536):
        told += more
    os.close(ours)
    return len(told) // 4


def examine(path: Path, commits: int) -> dict[str, int]:
    """What a file holds against what was told."""
    spool = Spool(path, ROOMY)
    present = {found.seq for found in spool.oldest(Priority.RESULT, (-1, -1), 10**9)}
    spool.close()
    held, rest = expected(present)
    return {
        "told": commits,
        "held": held,
        "wrong": len(present ^ rest),
        "moved_aside": spool.moved_aside,
    }


def expected(present: Set[int]) -> tuple[int, set[int]]:
    """How many commits reach so far, and what they leave when nothing is missing."""
    held = max(present, default=-1) // BATCH + 1
    return held, {
        seq
        for seq in range(held * BATCH)
        if seq % BATCH >= ACKNOWLEDGED or seq // BATCH == held - 1
    }


def main() -> None:
    if sys.argv[2] == "--commits":
        write(Path(sys.argv[1]), lambda _: os.write(1, b"."), range(int(sys.argv[3])))
        return
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    for number in range(count):
        path = folder / f"{number}.db"
        commits = kill_one(path, random.uniform(0.0, 0.02))
        print(json.dumps(examine(path, commits)), flush=True)


if __name__ == "__main__":
    main()
