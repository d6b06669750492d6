from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edgetrt import wire
from edgetrt.asking import Answer, look_again
from edgetrt.link import Receiver, Sender

DONE = wire.ActivatedMessage(pipeline="", engine="")


def reply(inbox: Receiver, answer: bytes | None) -> None:
    """Take one question; answer it, or stay silent."""
    asked = inbox.receive(10.0)
    assert asked is not None
    message = wire.decode_link(asked)
    assert isinstance(message, wire.ActivateMessage)
    if answer is not None:
        with Sender(inbox.path.with_name(message.reply)) as out:
            out.send(answer)


def asked(runtime: Callable[[], None], path: Path, timeout_s: float = 20.0) -> Answer:
    thread = threading.Thread(target=runtime)
    thread.start()
    try:
        return look_again(path, timeout_s=timeout_s)
    finally:
        thread.join(timeout=20)


def test_where_nothing_runs_nothing_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "runtime.sock"
    assert look_again(path).state == "installed"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(str(path))
    assert look_again(path).state == "installed"
    assert look_again(tmp_path / "no" / "runtime.sock").state == "installed"
    assert list(tmp_path.iterdir()) == [path]


def test_sockets_of_askers_that_were_killed_are_swept(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    dead = tmp_path / f"ask-{done.stdout.strip()}-0.sock"
    alive, foreign = tmp_path / f"ask-{os.getppid()}-3.sock", tmp_path / "ask-me-too.sock"
    for file in (dead, alive, foreign):
        file.touch()
    look_again(tmp_path / "runtime.sock")
    assert sorted(tmp_path.iterdir()) == sorted([alive, foreign])


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (wire.encode(DONE), "taken"),
        (wire.encode(wire.ActivatedMessage(pipeline="", engine="", error="no")), "refused"),
        (wire.encode(wire.GrantMessage(pipeline="a")), "silent"),
        (b"\xff", "silent"),
        (None, "silent"),
    ],
)
def test_what_is_answered_is_told(tmp_path: Path, answer: bytes | None, state: str) -> None:
    path = tmp_path / "runtime.sock"
    with Receiver(path) as inbox:
        found = asked(lambda: reply(inbox, answer), path, 20.0 if answer else 0.2)
    assert found.state == state
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_that_died_over_it_is_asked_again_once_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "runtime.sock"
    first = Receiver(path)

    def dies_and_comes_back() -> None:
        reply(first, None)
        first.close()
        with Receiver(path) as second:
            reply(second, wire.encode(DONE))

    assert asked(dies_and_comes_back, path).state == "taken"
