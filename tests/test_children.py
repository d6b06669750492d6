"""Processes as children: started once, ended on request, and never outliving their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgetrt.children import Children, how_it_ended
from tests.cli.command import ROOT

AGENT = "agent"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A device whose broker is nowhere: its agent runs until it is ended."""
    path = tmp_path / "agent.yaml"
    path.write_text("device: test\nbroker: {port: 9}\npipelines: []\n")
    return path


@pytest.fixture
def children(tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Children]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("EDGETRT_STATE", str(tmp_path / "state"))
    family = Children(
        {
            AGENT: ["agent", "--config", str(config), "--run-dir", str(tmp_path)],
            "version": ["--version"],
            "mistake": ["agent", "--config", str(tmp_path / "none.yaml")],
        }
    )
    yield family
    family.close()


def appears(path: Path) -> bool:
    for _ in range(300):
        if path.exists():
            return True
        time.sleep(0.05)
    return False


def ended(children: Children, unit: str) -> int:
    for _ in range(300):
        status = children.status(unit)
        if status is not None:
            return status
        time.sleep(0.05)
    raise AssertionError(f"{unit} does not end")


def test_what_was_never_started_is_inactive(children: Children) -> None:
    assert children.state(AGENT) == "inactive"
    assert children.status(AGENT) is None
    assert children.stop(AGENT) is None


def test_it_runs_until_it_is_stopped(children: Children, tmp_path: Path) -> None:
    children.start(AGENT)
    assert appears(tmp_path / "agent.sock")
    assert children.state(AGENT) == "active"
    assert children.status(AGENT) is None
    first = children._processes[AGENT].pid
    children.start(AGENT)
    assert children._processes[AGENT].pid == first
    children.restart(AGENT)
    assert children._processes[AGENT].pid != first
    assert children.state(AGENT) == "active"
    children.close()
    assert children.state(AGENT) != "active"


def test_how_a_unit_ended_is_its_state(children: Children) -> None:
    children.start("version")
    children.start("mistake")
    assert (ended(children, "version"), children.state("version")) == (0, "inactive")
    assert (ended(children, "mistake"), children.state("mistake")) == (78, "failed")
    children.start("version")
    assert ended(children, "version") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_child_does_not_outlive_a_parent_that_is_killed(config: Path, tmp_path: Path) -> None:
    parent = (
        "import sys, time\n"
        "from edgetrt.children import Children\n"
        "family = Children({'agent': sys.argv[1:]})\n"
        "family.start('agent')\n"
        "print(family._processes['agent'].pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", parent, "agent", "--config", str(config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EDGETRT_STATE": str(tmp_path / "state")}
    with subprocess.Popen(
        [*command, "--run-dir", str(tmp_path)], env=environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert appears(tmp_path / "agent.sock")
        process.kill()
    for _ in range(300):
        if not alive(child):
            return
        time.sleep(0.05)
    raise AssertionError("the child goes on")


def alive(pid: int) -> bool:
    """A process that runs; one that has ended and that nobody has asked for counts as ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (70, "ended with 70"),
        (-signal.SIGKILL, "was ended by SIGKILL"),
        (-200, "was ended by signal 200"),
    ],
)
def test_an_exit_status_in_words(status: int, words: str) -> None:
    assert how_it_ended(status) == words
