"""What a publication leaves behind that is cut short, lacks keys or signatures, or has a wrong clock."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata

from edgetrt.errors import TrustError, UnreachableError
from edgetrt.update import keys
from edgetrt.update.audit import FolderOrigin, audit
from edgetrt.update.repository import Repository
from edgetrt.update.trust import SIGNED_AT, Trust
from tests.update.device import Clock, Site, write_release

FIRST, SECOND = "releases/street-1.tar", "releases/street-2.tar"


class Cut(Repository):
    """A repository whose plug is pulled after some files."""

    def __init__(self, folder: Path, files: int) -> None:
        super().__init__(folder)
        self._left = files

    def _write(self, path: Path, metadata: Metadata[Any]) -> None:
        if not self._left:
            raise OSError("the plug is pulled")
        self._left -= 1
        super()._write(path, metadata)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """One release is public; another and another timestamp key are staged, and signed."""
    site = Site(tmp_path / "site")
    site.release("1")
    site.repository.add(write_release(site.folder / "src-2", "2", b"two"))
    old = keys.public(site.keys / "timestamp-0.pem").keyid
    site.repository.rotate("timestamp", [keys.make(site.keys, "timestamp-new")], [old])
    site.repository.sign(signers(site).values())
    return site


def signers(site: Site) -> dict[str, Signer]:
    return keys.folder_signers(site.keys)


def seen(site: Site) -> list[str]:
    """What a device finds that knows the first root alone."""
    return audit(site.repository.folder / "public", site.repository.first_root())


def public(site: Site) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in site.repository.metadata.iterdir()}


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
def test_without_an_online_key_nothing_is_published(site: Site, role: str) -> None:
    before, staged = public(site), site.repository.staged()
    lost = [keys.public(path).keyid for path in site.keys.glob(f"{role}-*.pem")]
    rest = {keyid: one for keyid, one in signers(site).items() if keyid not in lost}

    with pytest.raises(TrustError, match=f"{role}: 0 of 1"):
        site.repository.publish(rest)

    assert public(site) == before
    assert site.repository.staged() == staged
    assert seen(site) == [FIRST]


@pytest.mark.parametrize("files", range(4))
def test_a_publication_that_was_cut_short_is_completed_by_the_next(site: Site, files: int) -> None:
    with pytest.raises(OSError, match="plug"):
        Cut(site.repository.folder, files).publish(signers(site))
    if files < 3:  # root and timestamp, the last two, name another key together
        assert seen(site) == [FIRST]

    assert site.repository.publish(signers(site))["targets"] == 3

    assert sorted(seen(site)) == [FIRST, SECOND]
    assert site.repository.staged() == []


def test_what_was_left_half_published_is_never_changed_behind_a_devices_back(site: Site) -> None:
    with pytest.raises(OSError, match="plug"):
        Cut(site.repository.folder, 3).publish(signers(site))
    root = site.repository.metadata / "2.root.json"
    kept = root.read_bytes()

    site.repository.rotate("snapshot", [keys.make(site.keys, "snapshot-new")], [])
    site.publish()

    assert root.read_bytes() == kept
    assert site.repository.load("root").signed.version == 3
    assert sorted(seen(site)) == [FIRST, SECOND]


def sign_at(site: Site, when: datetime) -> None:
    """Sign the public timestamp anew, by a clock that says so."""
    path = site.repository.metadata / "timestamp.json"
    timestamp = Metadata.from_bytes(path.read_bytes())
    timestamp.signed.version += 1
    timestamp.signed.unrecognized_fields[SIGNED_AT] = when.isoformat()
    timestamp.sign(keys.signer(str(site.keys / "timestamp-0.pem")))
    path.write_bytes(timestamp.to_bytes())


def test_a_repository_with_a_clock_far_ahead_holds_no_device_once_it_is_right(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path / "site")
    public = site.repository.folder / "public"
    origins = FolderOrigin(public / "metadata"), FolderOrigin(public / "targets")
    trust = Trust(tmp_path / "trust", site.repository.first_root(), Clock())
    sign_at(site, datetime.now(timezone.utc) + timedelta(days=4000))

    with pytest.raises(UnreachableError) as held:
        trust.refresh(*origins)
    assert held.value.code == "clock"

    site.repository.publish(signers(site), trust_clock=True)
    trust.refresh(*origins)
    assert trust.now() < datetime.now(timezone.utc)


@pytest.mark.parametrize("days", [-31, 2])
def test_nothing_is_signed_by_a_clock_that_must_be_wrong(tmp_path: Path, days: int) -> None:
    site = Site(tmp_path / "site")
    sign_at(site, datetime.now(timezone.utc) + timedelta(days=days))
    before = public(site)

    with pytest.raises(TrustError, match="clock") as refused:
        site.repository.publish(signers(site))
    assert "--trust-clock" in refused.value.hint
    assert public(site) == before

    assert site.repository.publish(signers(site), trust_clock=True)["timestamp"] == 3


def test_what_is_public_stays_fresh_while_signatures_are_awaited(site: Site) -> None:
    site.repository.rotate("targets", [keys.make(site.keys, "targets-new")], [])
    before = {role: site.repository.load(role).signed.version for role in ("root", "timestamp")}

    with pytest.raises(TrustError, match="root version 2: 0 of 2"):
        site.repository.publish(signers(site))

    assert site.repository.load("timestamp").signed.version == before["timestamp"] + 1
    assert site.repository.load("root").signed.version == before["root"]
    assert len(site.repository.staged()) == 2
    assert seen(site) == [FIRST]
