"""The outbox on a real disk that fills up and turns read-only; needs root."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from edgetrt.agent.entry import Priority
from edgetrt.agent.outbox import Outbox
from edgetrt.agent.spool import Spool
from tests.agent.waiting import NOW, ROOMY, entry
from tests.fakes import FakeTransport

pytestmark = pytest.mark.system


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no permission to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


SMALL = msgspec.structs.replace(ROOMY, leave_free_mb=2.0)


def remount(disk: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True)


def drive(path: Path, hinder: object, mend: object) -> Outbox:
    """Put more than the disk holds while it is hindered; everything arrives once it is mended."""

    async def scenario() -> Outbox:
        transport = FakeTransport(online=False)
        outbox = Outbox(transport, 1, partial(Spool, path, SMALL), SMALL, lambda: NOW, retry_s=0.05)
        work = asyncio.create_task(outbox.run())
        for seq in range(10):
            outbox.put(entry(seq))
        await until(lambda: outbox.keeper.state.depths[Priority.RESULT].rows == 10)
        hinder()  # type: ignore[operator]
        for seq in range(10, 3000):
            outbox.put(entry(seq, payload=b"x" * 1000 + b'"historical":false}'))
        await until(lambda: bool(outbox.keeper.state.error))
        assert not work.done()
        assert outbox.pending == 3000
        mend()  # type: ignore[operator]
        transport.go_online()
        await until(lambda: outbox.pending == 0)
        assert len(transport.published) == outbox.published == 3000
        await until(lambda: outbox.keeper.state.error == "")
        await until(lambda: outbox.keeper.state.depths[Priority.RESULT].rows == 0)
        work.cancel()
        await asyncio.wait([work])
        await outbox.close()
        return outbox

    return asyncio.run(scenario())


async def until(met: object) -> None:
    for _ in range(4000):
        if met():  # type: ignore[operator]
            return
        await asyncio.sleep(0.005)
    raise AssertionError("did not come about")


def test_a_disk_that_is_full_costs_nothing_while_the_memory_lasts(disk: Path) -> None:
    outbox = drive(disk / "outbox.db", lambda: None, lambda: None)
    assert outbox.dropped == dict.fromkeys(Priority, 0)


def test_a_disk_that_turns_read_only_costs_nothing_while_the_memory_lasts(disk: Path) -> None:
    outbox = drive(
        disk / "outbox.db",
        lambda: subprocess.run(["mount", "-o", "remount,ro,force", str(disk)], check=False),
        lambda: remount(disk, "rw,size=64m"),
    )
    assert outbox.dropped == dict.fromkeys(Priority, 0)
