"""Root in a folder that is a service's: whatever is planted there, root's own files stay as they are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgetrt.errors import UpdateError
from edgetrt.update import durable
from edgetrt.update.desired import Policy
from edgetrt.update.record import FileStore, Memory, Offer, Record, alone
from edgetrt.update.states import State
from tests.cli.command import edgetrt

SOMEBODY = 12345


def waiting(state: State = State.WAIT, digest: str = "b" * 64) -> Memory:
    """An update that waits for a person's word."""
    record = Record(
        offer=Offer(envelope=""),
        state=state,
        generation=1,
        digest=digest,
        policy=Policy(ask=True),
        begun_at=0.0,
        entered_at=0.0,
    )
    return Memory(record=record, previous="a" * 64)


@pytest.fixture
def place() -> Iterator[Path]:
    """Root's folder that everybody may enter, with one of a service's in it."""
    if os.geteuid() != 0:
        pytest.skip("only root works in other people's folders")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name).resolve()
        place.chmod(0o755)
        (place / "state").mkdir()
        os.chown(place / "state", SOMEBODY, SOMEBODY)
        yield place
    assert os.geteuid() == 0


@pytest.fixture
def planted(place: Path) -> Path:
    """A folder of updates that the service has replaced by a link to root's own."""
    roots = place / "roots"
    roots.mkdir()
    FileStore(roots).save(waiting())
    (roots / "update.json").chmod(0o644)
    return plant(place / "state/update", roots)


def plant(link: Path, to: Path) -> Path:
    link.symlink_to(to)
    os.chown(link, SOMEBODY, SOMEBODY, follow_symlinks=False)
    return link


def ids() -> tuple[int, int, list[int]]:
    return os.geteuid(), os.getegid(), os.getgroups()


def test_a_link_decides_by_who_planted_it_and_not_by_where_it_leads(planted: Path) -> None:
    before = ids()
    with durable.as_owner(planted):
        assert ids() == (SOMEBODY, SOMEBODY, [])
    assert ids() == before


def test_behind_a_name_of_somebodys_nothing_is_roots(place: Path) -> None:
    deep = place / "state/update/inbox"
    deep.mkdir(parents=True)  # these two are root's
    with durable.as_owner(deep):
        assert os.geteuid() == SOMEBODY


def test_roots_own_links_are_followed(place: Path) -> None:
    (place / "own").symlink_to("own-too")
    (place / "own-too").symlink_to(place / "state/..")
    with durable.as_owner(place / "own-too"):
        assert os.geteuid() == SOMEBODY
    (place / "empty").mkdir()
    (place / "root").symlink_to("own/../empty")
    (place / "own").unlink()
    (place / "own").mkdir()
    with durable.as_owner(place / "root/none/at/all"):
        assert os.geteuid() == 0
    (place / "root").unlink()
    (place / "root").symlink_to("root")
    with pytest.raises(OSError, match="symbolic links"), durable.as_owner(place / "root"):
        pass


def test_root_is_root_again_after_an_error(place: Path) -> None:
    before = ids()
    with pytest.raises(ZeroDivisionError), durable.as_owner(place / "state"):
        raise ZeroDivisionError
    assert ids() == before


def test_new_folders_and_the_lock_are_not_made_where_a_link_leads(
    place: Path, planted: Path
) -> None:
    with pytest.raises(PermissionError):
        durable.own_folder(planted / "new")
    with pytest.raises(PermissionError), alone(planted):
        pass
    assert {path.name for path in (place / "roots").iterdir()} == {"update.json", "room"}

    durable.own_folder(place / "state/another")
    assert (place / "state/another").stat().st_uid == SOMEBODY


def test_the_document_is_not_written_where_a_link_leads(place: Path, planted: Path) -> None:
    with pytest.raises(UpdateError, match="cannot be written"):
        FileStore(planted).save(Memory())
    assert FileStore(place / "roots").load() == waiting()


@pytest.mark.parametrize("word", ["confirm", "abort", "rollback", "take-back"])
def test_a_persons_word_is_not_left_where_a_link_leads(
    place: Path, planted: Path, word: str
) -> None:
    roots, other = place / "roots", "c" * 64
    for digest in ("a" * 64, other):
        (roots / "releases" / digest).mkdir(parents=True)
    (roots / "current").symlink_to(f"releases/{other}")
    if word in ("rollback", "take-back"):
        FileStore(roots).save(Memory(previous="a" * 64))
        (roots / "update.json").chmod(0o644)
    before = {path.name for path in roots.iterdir()}

    done = edgetrt("update", word, "--folder", planted)

    assert done.code not in (0, 75), done.out
    assert "Permission denied" in done.err
    assert {path.name for path in roots.iterdir()} == before
    assert (roots / "current").readlink().name == other


def test_a_persons_word_in_an_honest_folder_belongs_to_the_service(place: Path) -> None:
    folder = place / "state/update"
    FileStore(folder).save(waiting())

    done = edgetrt("update", "confirm", "--folder", folder)

    assert (done.code, (folder / "consent").read_text()) == (0, "b" * 64), done.err
    assert edgetrt("update", "abort", "--folder", folder).code == 0
    assert {path.stat().st_uid for path in folder.rglob("*")} == {SOMEBODY}


@pytest.mark.parametrize("digest", ["* * * * * root id\n", "b" * 64 + "\n", "B" * 64, "b" * 63])
def test_no_words_are_taken_for_a_digest(tmp_path: Path, digest: str) -> None:
    FileStore(tmp_path).save(waiting(digest=digest))
    with pytest.raises(UpdateError, match="digest"):
        FileStore(tmp_path).load()
