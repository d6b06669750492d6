"""The file that messages wait in."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgetrt.agent.entry import Moment, Priority, age_s
from edgetrt.agent.spool import Depth, Spool
from edgetrt.config import KeepConfig, OutboxConfig
from edgetrt.errors import StoreError
from tests.agent.waiting import ENDLESS, NOW, ROOMY, entry, seqs

RESULT, HEALTH, EVENT = Priority.RESULT, Priority.HEALTH, Priority.EVENT
PAYLOAD = b"x" * 904
"""With it an entry takes 1006 bytes as a result."""


def limited(**limits: KeepConfig | float) -> OutboxConfig:
    known = {"event": ENDLESS, "health": ENDLESS, "result": ENDLESS, "max_mb": 1000.0}
    return OutboxConfig(**{**known, **limits})  # type: ignore[arg-type]


def test_what_was_committed_is_there_again_in_order_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "outbox.db"
    first = Spool(path, ROOMY)
    entries = [entry(2), entry(1, epoch=2), entry(0), entry(7, HEALTH, payload=b"\x00\xff")]
    first.commit(entries, {}, [], NOW)
    first.close()
    again = Spool(path, ROOMY)
    assert again.oldest(RESULT, (-1, -1), 10) == [entries[2], entries[0], entries[1]]
    assert again.oldest(RESULT, (1, 0), 1) == [entries[0]]
    assert again.oldest(HEALTH, (-1, -1), 10) == [entries[3]]
    assert again.depths[RESULT] == Depth(3, sum(e.size for e in entries[:3]))
    again.close()
    again.close()


def test_removing_and_adding_again_change_nothing_the_second_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "outbox.db", ROOMY)
    both = [entry(0), entry(1)]
    for _ in range(2):
        spool.commit(both, {}, [], NOW)
    assert spool.depths[RESULT].rows == 2
    for _ in range(2):
        spool.commit([], {(RESULT, (1, 0)): entry(0).size, (EVENT, (1, 1)): 5}, [], NOW)
    assert seqs(spool) == [1]
    assert spool.depths[RESULT] == Depth(1, entry(1).size)
    spool.close()


@settings(max_examples=30, deadline=None)
@given(st.sets(st.tuples(st.integers(1, 3), st.integers(0, 12))))
def test_only_what_is_removed_goes(gone: set[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder) / "outbox.db", ROOMY)
        keys = [(epoch, seq) for epoch in (1, 2) for seq in range(10)]
        spool.commit([entry(seq, epoch=epoch) for epoch, seq in keys], {}, [], NOW)
        spool.commit([], {(RESULT, key): entry(0).size for key in gone}, [], NOW)
        left = [found.key for found in spool.oldest(RESULT, (-1, -1), 100)]
        assert left == [key for key in keys if key not in gone]
        assert spool.depths[RESULT] == Depth(len(left), len(left) * entry(0).size)
        spool.close()


def test_too_much_of_a_class_costs_its_oldest(tmp_path: Path) -> None:
    config = limited(result=KeepConfig(max_mb=0.01, max_age_s=1e9))
    spool = Spool(tmp_path / "outbox.db", config)
    entries = [entry(seq, payload=PAYLOAD) for seq in range(700)]
    gone = spool.commit([*entries, entry(0, HEALTH, payload=PAYLOAD)], {}, [], NOW)
    kept = int(1e4 // entries[0].size)
    assert seqs(spool) == list(range(700 - kept, 700))
    assert gone == [(RESULT, (1, seq)) for seq in range(700 - kept)]
    assert seqs(spool, HEALTH) == [0]
    spool.close()


def test_too_much_in_all_costs_the_lowest_class_first(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "outbox.db", limited(max_mb=0.02))
    entries = [entry(seq, of, payload=PAYLOAD) for of in Priority for seq in range(15)]
    gone = spool.commit(entries, {}, [], NOW)
    assert {priority for priority, _ in gone[:15]} == {RESULT}
    assert [key for priority, key in gone if priority is HEALTH] == [
        (1, seq) for seq in range(len(gone) - 15)
    ]
    assert len(seqs(spool, EVENT)) == 15
    assert sum(depth.bytes for depth in spool.depths.values()) <= 2e4
    spool.close()


def test_what_is_being_sent_is_not_dropped(tmp_path: Path) -> None:
    config = limited(result=KeepConfig(max_mb=0.003, max_age_s=1e9))
    spool = Spool(tmp_path / "outbox.db", config)
    entries = [entry(seq, payload=PAYLOAD) for seq in range(6)]
    spool.commit(entries, {}, [(1, 0), (1, 2)], NOW)
    assert seqs(spool) == [0, 2]
    spool.close()


@pytest.mark.parametrize(
    ("made", "now", "age"),
    [
        (Moment(0.0, 10_000_000_000, "a"), Moment(1.8e9, 26_000_000_000, "a"), 16.0),
        (Moment(1.8e9 - 60, 10, "a"), Moment(1.8e9, 20, "b"), 60.0),
        (Moment(12.0, 10, "a"), Moment(1.8e9, 20, "b"), 0.0),
        (Moment(1.8e9, 10, "a"), Moment(12.0, 20, "b"), 0.0),
        (Moment(1.8e9 + 99, 10, "a"), Moment(1.8e9, 20, "b"), 0.0),
    ],
    ids=["one boot", "two boots", "not set when made", "not set now", "from the future"],
)
def test_ages(made: Moment, now: Moment, age: float) -> None:
    assert age_s(made.wall, made.mono_ns, made.boot, now) == age


def test_what_is_too_old_goes_also_when_nothing_comes(tmp_path: Path) -> None:
    config = limited(result=KeepConfig(max_mb=9.0, max_age_s=100.0))
    spool = Spool(tmp_path / "outbox.db", config)
    spool.commit([entry(seq) for seq in range(300)] + [entry(0, HEALTH)], {}, [], NOW)
    later = Moment(NOW.wall, NOW.mono_ns + 101_000_000_000, NOW.boot)
    fresh = entry(300, at=later)
    assert len(spool.commit([fresh], {}, [], later)) == 300
    assert seqs(spool) == [300]
    assert seqs(spool, HEALTH) == [0]
    spool.close()


def test_a_full_disk_is_told_and_costs_nothing_that_was_there(tmp_path: Path) -> None:
    config = OutboxConfig(max_mb=0.1, memory_mb=0.1, result=ENDLESS)
    spool = Spool(tmp_path / "outbox.db", config)
    spool.commit([entry(0)], {}, [], NOW)
    with pytest.raises(StoreError, match="full"):
        spool.commit([entry(seq, payload=b"x" * 1000) for seq in range(1, 1500)], {}, [], NOW)
    assert seqs(spool) == [0]
    assert spool.depths[RESULT].rows == 1
    spool.commit([entry(1)], {(RESULT, (1, 0)): entry(0).size}, [], NOW)
    assert seqs(spool) == [1]
    spool.close()


def test_the_last_of_the_disk_is_left_to_others_and_to_removing(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    spool = Spool(path, ROOMY)
    spool.commit([entry(0), entry(1)], {}, [], NOW)
    spool.close()
    # More than any disk has free.
    greedy = Spool(path, msgspec.structs.replace(ROOMY, leave_free_mb=1e12))
    with pytest.raises(StoreError, match="MB free"):
        greedy.commit([entry(2)], {(RESULT, (1, 0)): entry(0).size}, [], NOW)
    greedy.commit([], {(RESULT, (1, 0)): entry(0).size}, [], NOW)
    assert seqs(greedy) == [1]
    greedy.close()


def test_a_place_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="outbox"):
        Spool(tmp_path / "file" / "outbox.db", ROOMY)
    with pytest.raises(StoreError):
        Spool(tmp_path, ROOMY)


def test_two_agents_do_not_share_a_file(tmp_path: Path) -> None:
    first = Spool(tmp_path / "outbox.db", ROOMY)
    first.commit([entry(0)], {}, [], NOW)
    with pytest.raises(StoreError, match="locked"):
        Spool(tmp_path / "outbox.db", ROOMY)
    assert seqs(first) == [0]
    first.close()
    second = Spool(tmp_path / "outbox.db", ROOMY)
    assert seqs(second) == [0]
    second.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed file with 200 results."""
    path = tmp_path_factory.mktemp("spool") / "outbox.db"
    spool = Spool(path, ROOMY)
    spool.commit([entry(seq, payload=PAYLOAD) for seq in range(200)], {}, [], NOW)
    spool.close()
    return path


def damage(written: Path, folder: Path, kind: str) -> Path:
    path = folder / "outbox.db"
    shutil.copy(written, path)
    whole = path.read_bytes()
    if kind == "garbage":
        path.write_bytes(b"not a database, and long enough to be looked at" * 200)
    elif kind == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "other layout":
        path.write_bytes(whole[:60] + (99).to_bytes(4, "big") + whole[64:])
    return path


@pytest.mark.parametrize("kind", ["garbage", "cut", "other layout"])
def test_a_damaged_file_is_moved_aside_and_a_new_one_begun(
    written: Path, tmp_path: Path, kind: str
) -> None:
    path = damage(written, tmp_path, kind)
    spool = Spool(path, ROOMY)
    spool.commit([entry(1000)], {}, [], NOW)
    assert seqs(spool)[-1] == 1000
    assert spool.moved_aside == 1
    assert path.with_name("outbox.db.damaged").exists()
    spool.close()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=40))
def test_whatever_the_bytes_are_the_spool_goes_on(
    written: Path, tmp_path: Path, flips: list[tuple[float, int]]
) -> None:
    for stale in tmp_path.iterdir():
        stale.unlink()
    path = damage(written, tmp_path, "none")
    content = bytearray(path.read_bytes())
    for where, value in flips:
        content[min(int(where * len(content)), len(content) - 1)] = value
    path.write_bytes(content)
    try:
        spool = Spool(path, ROOMY)
        try:
            spool.oldest(RESULT, (-1, -1), 1000)
            spool.commit([entry(5000)], {(RESULT, (1, 3)): 9}, [], NOW)
        finally:
            spool.close()
    except StoreError as error:
        assert str(path) in error.message


def test_a_text_that_is_none_is_damage(written: Path, tmp_path: Path) -> None:
    path = damage(written, tmp_path, "none")
    content = path.read_bytes()
    at = content.rindex(b"result")
    path.write_bytes(content[:at] + b"\xff" + content[at + 1 :])
    spool = Spool(path, ROOMY)
    assert spool.oldest(RESULT, (-1, -1), 1000) == []
    assert spool.moved_aside == 1
    spool.close()
