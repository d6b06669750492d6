"""The machine beyond the straight way: newer ones, people, windows, deadlines, broken releases, disks."""

from __future__ import annotations

import fcntl
import os
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from hypothesis import given
from hypothesis import strategies as st

from edgetrt.errors import ConfigError, TrustError, UpdateError
from edgetrt.update import bundle, conditions
from edgetrt.update.desired import Policy, peek
from edgetrt.update.record import Memory, Offer, Store
from edgetrt.update.requests import Request
from edgetrt.update.states import ROWS, TABLE, Code, Row, State
from tests.update.device import Device, Site, offer


class Shelf:
    """Bundles of releases 1, 2 and 3 of a site, and a device on which the first serves."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site = folder, Site(folder / "site")
        self.root = self.site.repository.first_root()
        self.targets = [self.site.release(str(n), b"network" * 100 * n) for n in (1, 2, 3)]
        device = self.device()
        device.machine.offer(self.offer(1))
        assert device.settle().code is Code.SUCCEEDED

    def device(self, **how: object) -> Device:
        return Device(self.folder / "device", self.root, **how)  # type: ignore[arg-type]

    def offer(self, n: int, generation: int = 0, policy: Policy | None = None) -> Offer:
        target, generation = self.targets[n - 1], generation or n
        envelope = self.site.assign(target, generation, policy=policy)
        path = self.folder / f"{n}-{generation}.edgetrt"
        bundle.write(self.site.repository, target, [envelope], path)
        return offer(envelope, path)

    def digest(self, n: int) -> str:
        targets = self.site.repository.load("targets").signed.targets
        return str(targets[self.targets[n - 1]].hashes["sha256"])


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_every_state_has_one_row_and_leads_on() -> None:
    assert [row.state for row in TABLE] == list(State)
    reached: set[State | Code] = {State.VERIFY}
    for row in TABLE:
        reached |= {row.then, row.refused, row.failed, row.late}
    assert set(State) <= reached
    ends = {to for row in TABLE for to in (row.then, row.refused, row.failed, row.late)}
    assert ends - set(State) == set(Code) - {Code.CANCELED}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.state.value)
def test_behind_the_switch_every_way_out_is_a_proof_or_the_way_back(row: Row) -> None:
    switched = row.state in (State.ACTIVATE, State.PROVE, State.COMMIT)
    assert row.cancel is not (switched or row.state is State.ROLLBACK)
    assert row.deadline_s > 0
    if switched:
        assert {row.refused, row.failed, row.late} == {State.ROLLBACK}
    assert len(fields(row)) == 9


def test_the_same_assignment_again_is_only_reported(shelf: Shelf) -> None:
    device = shelf.device()
    before = device.store.load()

    answer = device.machine.offer(shelf.offer(1))

    assert answer.answer == "known"
    assert answer.record is not None
    assert answer.record.code is Code.SUCCEEDED
    assert device.machine.step() is None
    assert device.store.load() == before


def test_what_serves_already_has_succeeded(shelf: Shelf) -> None:
    device = shelf.device()
    device.machine.offer(shelf.offer(1, generation=7))

    record = device.settle()

    assert (record.code, record.state, record.serves) == (Code.SUCCEEDED, State.VERIFY, True)
    assert device.store.load().floor == 7


def test_a_newer_one_takes_over_before_the_switch(shelf: Shelf) -> None:
    device = shelf.device()
    device.machine.offer(shelf.offer(2))
    device.until(State.BUILD)

    assert device.machine.offer(shelf.offer(3)).answer == "waits"
    record = device.settle()

    assert (record.code, device.layout.current()) == (Code.SUCCEEDED, shelf.digest(3))
    before = device.store.load().history[0]
    assert (before.code, before.reason) == (Code.CANCELED, "superseded")


def test_a_newer_one_waits_behind_the_switch(shelf: Shelf) -> None:
    device = shelf.device()
    device.machine.offer(shelf.offer(2))
    device.until(State.PROVE)

    assert device.machine.offer(shelf.offer(3)).answer == "waits"
    device.settle()

    assert device.layout.current() == shelf.digest(3)
    assert [r.code for r in device.store.load().history] == [Code.SUCCEEDED, Code.SUCCEEDED]


def test_a_forged_newer_one_stops_nothing(shelf: Shelf) -> None:
    device = shelf.device()
    device.machine.offer(shelf.offer(2))
    device.until(State.FETCH)
    forged = shelf.site.assign(shelf.targets[2], 9, key="targets-0")

    device.machine.offer(offer(forged))
    record = device.settle()

    assert (record.code, record.reason) == (Code.REJECTED, "policy")
    assert device.layout.current() == shelf.digest(2)


def test_a_person_aborts_before_the_switch(shelf: Shelf) -> None:
    device = shelf.device()
    device.machine.offer(shelf.offer(2))
    device.until(State.WAIT)
    device.requests.ask(Request(what="abort", digest=shelf.digest(2)))

    record = device.settle()

    assert (record.code, record.reason) == (Code.CANCELED, "aborted")
    assert device.layout.current() == shelf.digest(1)
    assert device.requests.pending() is None


def test_nobody_aborts_behind_the_switch(shelf: Shelf) -> None:
    device = shelf.device()
    device.machine.offer(shelf.offer(2))
    device.until(State.PROVE)
    device.requests.ask(Request(what="abort", digest=shelf.digest(2)))

    assert device.settle().code is Code.SUCCEEDED


def test_a_person_takes_a_release_back_once(shelf: Shelf) -> None:
    device = shelf.device()
    device.machine.offer(shelf.offer(2))
    device.settle()
    wish = Request(what="rollback", digest=shelf.digest(2))

    device.requests.ask(wish)
    record = device.settle()

    assert (record.code, record.by_hand) == (Code.ROLLED_BACK, True)
    assert device.layout.current() == device.engines.serving() == shelf.digest(1)
    device.requests.ask(wish)
    assert device.settle() == record
    assert device.machine.offer(shelf.offer(2)).answer == "known"


def test_the_one_before_is_kept_and_older_ones_go(shelf: Shelf) -> None:
    device = shelf.device()
    for n in (2, 3):
        device.machine.offer(shelf.offer(n))
        device.settle()

    kept = {path.name for path in (device.layout.root / "releases").iterdir()}
    assert kept == {shelf.digest(2), shelf.digest(3)}
    assert list(device.layout.downloads.glob("*")) == []


def test_halves_that_power_cuts_left_go_and_those_at_work_stay(shelf: Shelf) -> None:
    device = shelf.device()
    folder = device.layout.root
    (folder / "built").mkdir()
    left = [folder / ".new-abc", folder / "built/.new-def", folder / ".new-at-work"]
    for path in left:
        path.write_bytes(b"half")
    for path in left[:2]:
        os.utime(path, (1e9, 1e9))

    device.machine.offer(shelf.offer(2))
    assert device.settle().code is Code.SUCCEEDED
    assert [path.exists() for path in left] == [False, False, True]


@pytest.mark.parametrize(
    ("how", "code", "reason", "state"),
    [
        ({"fails": "build"}, Code.FAILED, "enginebuild", State.BUILD),
        ({"fails": "activate"}, Code.ROLLED_BACK, "enginebuild", State.ROLLBACK),
        ({"good": False}, Code.ROLLED_BACK, "prove", State.ROLLBACK),
    ],
    ids=["does not build", "is not taken", "is worse than promised"],
)
def test_a_bad_release_leaves_the_old_one_serving(
    shelf: Shelf, how: dict[str, object], code: Code, reason: str, state: State
) -> None:
    device = shelf.device(**how)
    device.machine.offer(shelf.offer(2))

    record = device.settle()

    assert (record.code, record.reason, record.state) == (code, reason, state)
    assert device.layout.current() == shelf.digest(1)
    if reason == "prove":
        assert record.verdict is not None
        assert record.detail == "releases/street-2.tar: fps: 11.5 Hz, limit >= 20 Hz"
        assert record.verdict.log == ("the last line",)


def test_the_first_release_of_all_can_be_taken_back(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    device = Device(tmp_path / "other", shelf.root, good=False)
    device.machine.offer(shelf.offer(1))

    assert device.settle().code is Code.ROLLED_BACK
    assert device.layout.current() == device.engines.serving() == ""


DONE_FIRST = (State.COMMIT, State.ROLLBACK)


@pytest.mark.parametrize("state", DONE_FIRST)
def test_a_device_that_was_off_for_long_still_ends_what_it_began(
    shelf: Shelf, state: State
) -> None:
    device = shelf.device(good=state is State.COMMIT)
    device.machine.offer(shelf.offer(2))
    device.until(state)
    device.clock.at += timedelta(seconds=ROWS[state].deadline_s + 1)

    record = device.settle()

    proven = state is State.COMMIT
    assert record.code is (Code.SUCCEEDED if proven else Code.ROLLED_BACK)
    assert device.layout.current() == device.engines.serving() == shelf.digest(2 if proven else 1)


@pytest.mark.parametrize("state", [s for s in State if s not in DONE_FIRST])
def test_no_state_lasts_for_ever(shelf: Shelf, state: State) -> None:
    device = shelf.device()
    device.machine.offer(shelf.offer(2))
    device.until(state)
    device.clock.at += timedelta(seconds=ROWS[state].deadline_s + 1)

    record = device.settle()

    switched = not ROWS[state].cancel
    assert record.code is (Code.ROLLED_BACK if switched else Code.TIMED_OUT)
    assert record.reason == "deadline"
    assert device.layout.current() == shelf.digest(1)


def test_a_switch_waits_for_the_window(shelf: Shelf) -> None:
    device = shelf.device()
    now = device.clock.at.astimezone()
    begin = now + timedelta(hours=2)
    window = f"{begin:%H:%M}-{begin + timedelta(hours=1):%H:%M}"
    device.machine.offer(shelf.offer(2, policy=Policy(window=window)))
    device.until(State.WAIT)

    assert device.machine.step() == 1.0
    assert device.record().held.startswith(f"window {window}")
    device.clock.at += timedelta(hours=2, minutes=1)
    assert device.settle().code is Code.SUCCEEDED


def test_a_switch_waits_for_the_application_but_not_for_ever(shelf: Shelf) -> None:
    device = shelf.device()
    device.machine.offer(shelf.offer(2, policy=Policy(lock_max_s=600)))
    device.until(State.WAIT)
    fd = os.open(device.layout.root / conditions.LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert device.machine.step() == 1.0
        assert "the application's lock" in device.record().held
        device.clock.at += timedelta(seconds=601)
        assert device.settle().code is Code.SUCCEEDED
    finally:
        os.close(fd)


def test_a_switch_waits_for_a_person_and_for_the_board(shelf: Shelf) -> None:
    device = shelf.device()
    device.machine.offer(shelf.offer(2, policy=Policy(ask=True)))
    device.until(State.WAIT)
    assert device.machine.step() == 1.0
    (device.layout.root / conditions.CONSENT).write_text(shelf.digest(1))
    assert device.machine.step() == 1.0, "the word was for another release"

    (device.layout.root / conditions.CONSENT).write_text(shelf.digest(2))
    device.room.lacks = "GPU at 92 °C, switches below 85 °C"
    assert device.machine.step() == 1.0
    assert device.record().held == device.room.lacks
    device.room.lacks = ""
    assert device.settle().code is Code.SUCCEEDED


@pytest.mark.parametrize(
    ("window", "now", "held"),
    [
        ("02:00-04:00", "03:00", True),
        ("02:00-04:00", "04:00", False),
        ("22:00-04:00", "23:59", True),
        ("22:00-04:00", "03:59", True),
        ("22:00-04:00", "12:00", False),
    ],
)
def test_a_window_may_reach_over_midnight(window: str, now: str, held: bool) -> None:
    from datetime import time

    assert conditions.within(window, time.fromisoformat(now)) is held


def test_a_window_that_is_none_is_told() -> None:
    from datetime import time

    with pytest.raises(ConfigError, match="window '25:00-26:00'"):
        conditions.within("25:00-26:00", time(0))


class FullStore:
    """A store whose disk takes nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self) -> Memory:
        return self._store.load()

    def save(self, memory: Memory) -> None:
        raise UpdateError("update.json: cannot be written: No space left on device", "", "disk")


def test_a_disk_that_takes_nothing_stops_before_the_work(shelf: Shelf) -> None:
    device = shelf.device()
    device.machine.offer(shelf.offer(2))
    device.until(State.WAIT)

    full = shelf.device(store=FullStore)
    with pytest.raises(UpdateError, match="No space"):
        full.machine.step()

    assert full.layout.current() == shelf.digest(1)
    assert shelf.device().settle().code is Code.SUCCEEDED


def test_a_damaged_state_is_told_and_not_replaced(shelf: Shelf) -> None:
    path = shelf.device().layout.root / "update.json"
    path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(UpdateError) as told:
        shelf.device().machine.step()

    assert told.value.code == "state"
    assert "replayed" in told.value.hint


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_bytes_get_past_the_envelope(data: bytes) -> None:
    with pytest.raises(TrustError):
        peek(data)


def test_what_was_before_is_noted_anew_after_a_long_wait(shelf: Shelf) -> None:
    device = shelf.device()
    device.machine.offer(shelf.offer(2))
    device.until(State.WAIT)
    noted = device.record().before
    assert noted["street"].fps == 30.0

    device.judge.fps = 25.0
    device.room.lacks = "heat"
    device.machine.step()
    device.clock.at += timedelta(seconds=60)
    device.machine.step()
    assert device.record().before == noted
    device.clock.at += timedelta(seconds=61)
    device.room.lacks = ""
    device.settle()
    assert device.record().before["street"].fps == 25.0


def test_a_wish_that_is_none_is_removed(shelf: Shelf) -> None:
    device = shelf.device()
    path = device.layout.root / "request.json"
    path.write_bytes(b"{}")

    assert device.requests.any()
    assert device.machine.step() is None
    assert not path.exists()
    path.mkdir()
    with pytest.raises(UpdateError, match="cannot be read"):
        device.machine.step()
