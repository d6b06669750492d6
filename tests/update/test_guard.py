from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgetrt.errors import UpdateError
from edgetrt.update import durable, guard
from edgetrt.update.layout import Layout
from edgetrt.update.machine import Machine, Ports
from edgetrt.update.record import FileStore, Memory, Offer, Record
from edgetrt.update.requests import Requests
from edgetrt.update.states import Code, State
from tests.cli.command import ROOT

OLD, NEW = "a" * 64, "b" * 64


def device(
    root: Path, state: State, previous: str = OLD, code: Code | None = None, serves: str = NEW
) -> Layout:
    """A device on which an update to NEW has come so far."""
    layout = Layout(root)
    for digest in (OLD, NEW):
        layout.release(digest).mkdir()
    layout.switch(serves)
    record = Record(
        offer=Offer(envelope=""),
        state=state,
        generation=7,
        digest=NEW,
        target="street",
        previous=previous,
        code=code,
        begun_at=0.0,
        entered_at=0.0,
    )
    kept = previous if code is Code.SUCCEEDED else ""
    FileStore(root).save(Memory(record=record, previous=kept))
    return layout


@pytest.mark.parametrize("state", [State.ACTIVATE, State.PROVE, State.COMMIT, State.ROLLBACK])
@pytest.mark.parametrize("previous", [OLD, ""])
def test_a_release_on_trial_is_taken_back(tmp_path: Path, state: State, previous: str) -> None:
    layout = device(tmp_path, state, previous)

    assert guard.take_back(tmp_path, trial_only=True) == NEW

    assert layout.current() == previous
    assert Requests(tmp_path).taken_back() == NEW


@pytest.mark.parametrize("state", [State.FETCH, State.BUILD, State.WAIT])
def test_before_the_switch_there_is_nothing_to_take_back(tmp_path: Path, state: State) -> None:
    layout = device(tmp_path, state, serves=OLD)

    assert guard.take_back(tmp_path) == ""
    assert layout.current() == OLD
    assert not Requests(tmp_path).any()


def test_one_that_was_proven_goes_back_unless_only_trials_should(tmp_path: Path) -> None:
    layout = device(tmp_path, State.COMMIT, code=Code.SUCCEEDED)

    assert guard.take_back(tmp_path, trial_only=True) == ""
    assert layout.current() == NEW
    assert guard.take_back(tmp_path) == NEW
    assert layout.current() == OLD


def test_each_is_taken_back_once(tmp_path: Path) -> None:
    layout = device(tmp_path, State.PROVE)

    assert [guard.take_back(tmp_path), guard.take_back(tmp_path)] == [NEW, ""]
    assert layout.current() == OLD


@pytest.mark.parametrize("previous", [OLD, ""])
def test_a_way_back_that_the_agent_began_gets_its_runtime_once(
    tmp_path: Path, previous: str
) -> None:
    layout = device(tmp_path, State.ROLLBACK, previous, serves=previous)

    assert [guard.take_back(tmp_path), guard.take_back(tmp_path)] == [NEW, ""]
    assert layout.current() == previous


def test_a_plug_pulled_between_note_and_switch_is_made_good(tmp_path: Path) -> None:
    layout = device(tmp_path, State.PROVE)
    durable.replace(tmp_path / "taken-back", NEW.encode())

    assert guard.take_back(tmp_path) == NEW
    assert layout.current() == OLD


def test_what_is_gone_cannot_be_gone_back_to(tmp_path: Path) -> None:
    layout = device(tmp_path, State.PROVE)
    layout.release(OLD).rmdir()

    assert guard.take_back(tmp_path) == ""
    assert layout.current() == NEW


def test_the_machine_ends_rolled_back_once_it_is_there_again(tmp_path: Path) -> None:
    device(tmp_path, State.PROVE)
    guard.take_back(tmp_path)
    ports = Ports("cam-1", lambda _: pytest.fail("nothing is verified"), lambda: 1.0)

    memory = Machine(FileStore(tmp_path), {}, Requests(tmp_path), ports).obey()

    assert memory.record is not None
    assert memory.record.state is State.ROLLBACK
    assert memory.record.reason
    assert not Requests(tmp_path).any()


def rollback(state: Path, status: int) -> int:
    """What systemd starts once the runtime has failed for good."""
    environment = {
        **os.environ,
        "EDGETRT_STATE": str(state),
        "EDGETRT": f"{sys.executable} -m edgetrt",
        "PYTHONPATH": str(ROOT),
        "MONITOR_EXIT_STATUS": str(status),
    }
    script = [ROOT / "services/rollback"]
    return subprocess.run(script, env=environment, capture_output=True, check=False).returncode


def test_the_service_takes_a_release_back_also_when_its_settings_are_refused(
    tmp_path: Path,
) -> None:
    layout = device(tmp_path / "update", State.PROVE)

    assert rollback(tmp_path, status=78) == 0
    assert layout.current() == OLD
    assert rollback(tmp_path, status=1) == 75


def test_engines_stay_when_nobody_knows_whether_a_release_is_at_fault(tmp_path: Path) -> None:
    device(tmp_path / "update", State.PROVE)
    (tmp_path / "update/update.json").write_text("{")
    (tmp_path / "active").mkdir()
    (tmp_path / "active/door.json").write_text("[]")

    assert rollback(tmp_path, status=1) == UpdateError.exit_code
    assert not list(tmp_path.glob("taken-back/*"))


def test_the_link_never_leads_to_what_is_not_here(tmp_path: Path) -> None:
    layout = device(tmp_path, State.COMMIT)

    with pytest.raises(UpdateError, match="not on this device any more"):
        layout.switch("f" * 64)

    assert layout.current() == NEW
