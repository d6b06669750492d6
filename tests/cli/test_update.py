"""`edgetrt update`: what a person asks for, and whether anybody hears it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from edgetrt.update.record import FileStore, Memory, alone
from edgetrt.update.requests import Requests
from tests.cli.command import edgetrt


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    FileStore(tmp_path).save(Memory(previous="a" * 64))
    return tmp_path


def test_a_wish_that_nobody_hears_is_said_to_wait(folder: Path) -> None:
    done = edgetrt("update", "rollback", "--folder", folder)
    assert (done.code, "no agent works on updates now" in done.out) == (0, True)


def test_a_wish_that_an_agent_takes_is_said_to_be_under_way(folder: Path) -> None:
    requests = Requests(folder)

    def take() -> None:
        deadline = time.monotonic() + 60
        while not requests.any() and time.monotonic() < deadline:
            time.sleep(0.01)
        requests.clear()

    agent = threading.Thread(target=take)
    agent.start()
    with alone(folder) as mine:
        done = edgetrt("update", "rollback", "--folder", folder)
    agent.join()
    assert mine
    assert (done.code, "The agent has begun with it" in done.out) == (0, True)
