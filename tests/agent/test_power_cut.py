"""The outbox's file after a power cut: it opens, and holds every commit that was told."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from edgetrt.agent.entry import Priority
from edgetrt.agent.spool import Spool
from tests.agent.killed_writer import expected
from tests.agent.power_cut import Event, left, parse, record
from tests.agent.waiting import ROOMY

ROOT = Path(__file__).parents[2]
COMMITS = 600
"""Enough to come round the log twice."""


def test_strace_is_read(tmp_path: Path) -> None:
    def told(text: str) -> str:
        return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'

    file = str(tmp_path / "a.db")
    lines = [
        f"7 openat(AT_FDCWD, {told(file)}, O_RDWR|O_CREAT, 0644) = 3",
        f"7 openat(AT_FDCWD, {told('/etc/passwd')}, O_RDONLY) = 4",
        f"7 pwrite64(3, {told('abc')}, 3, 512) = 3",
        f"7 pwrite64(4, {told('abc')}, 3, 0) = -1 EBADF (Bad file descriptor)",
        "7 fdatasync(3) = 0",
        f"7 write(1, {told('.')}, 1) = 1",
        "7 ftruncate(3, 0) = 0",
        "7 close(3) = 0",
        f"7 unlink({told(file)}) = 0",
    ]
    assert parse(lines, tmp_path) == [
        Event("write", file, 512, b"abc"),
        Event("sync", file),
        Event("told"),
        Event("truncate", file, 0),
        Event("unlink", file),
    ]


def test_what_was_synced_is_there_and_the_rest_may_be() -> None:
    events = [
        Event("write", "a", 0, b"x" * 600),
        Event("sync", "a"),
        Event("write", "a", 600, b"y"),
    ]
    seen = {left(events, random.Random(seed))["a"] for seed in range(50)}
    assert seen == {b"x" * 600, b"x" * 600 + b"y"}


@pytest.mark.system
@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_every_cut_leaves_a_file_that_opens_at_some_commit(tmp_path: Path) -> None:
    folder = tmp_path / "written"
    folder.mkdir()
    writer = ["-m", "tests.agent.killed_writer", str(folder / "o.db"), "--commits", str(COMMITS)]
    events = record(writer, folder, tmp_path / "strace.log")
    told = [index for index, event in enumerate(events) if event.what == "told"]
    assert len(told) == COMMITS
    assert sum(event.what == "sync" for event in events) > 2
    chance = random.Random(2026)
    for number in range(300):
        cut = chance.randrange(len(events)) + 1
        there = tmp_path / f"cut{number}"
        there.mkdir()
        for path, data in left(events[:cut], chance).items():
            (there / Path(path).name).write_bytes(data)
        commits = sum(index < cut for index in told)
        held = examine(there / "o.db")
        assert commits <= held <= commits + 1, f"cut {cut}: {held} of {commits} commits"
        shutil.rmtree(there)


def examine(path: Path) -> int:
    """How many commits a file holds, whole and without a gap."""
    spool = Spool(path, ROOMY)
    present = {found.seq for found in spool.oldest(Priority.RESULT, (-1, -1), 10**9)}
    spool.close()
    assert spool.moved_aside == 0
    held, rest = expected(present)
    assert present == rest
    return held
