"""What comes over the broker: the controller's word counts, anybody else's leaves a count and no more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from edgetrt.config import PipelineSettings
from edgetrt.errors import TrustError, UnreachableError
from edgetrt.update import keys
from edgetrt.update.assignments import Assignments
from edgetrt.update.desired import Desired, sign
from edgetrt.update.states import Code
from tests.update.device import DEVICE, Device, Site, from_web, offer, serving


@dataclass
class Receiving:
    """A site on the web, and a device that takes assignments."""

    site: Site
    device: Device
    asked: list[tuple[str, int]]
    now_s: float = 0.0
    settled: list[tuple[int, Mapping[str, PipelineSettings]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.assignments = Assignments(
            self.device.verifying,
            self.device.machine,
            lambda generation, settings: self.settled.append((generation, settings)),
            lambda: self.now_s,
        )

    def accept(self, envelope: bytes) -> str:
        clock = self.device.clock
        clock.at = max(clock.at, datetime.now(timezone.utc))
        answer = self.assignments.accept(envelope, self.now_s)
        return "refused" if answer is None else answer.answer

    def kept(self) -> dict[str, bytes]:
        """Every file of the device but the repository's own metadata, which was verified."""
        root = self.device.layout.root
        files = (path for path in root.rglob("*") if path.is_file())
        return {
            str(path): path.read_bytes() for path in files if root / "trust" not in path.parents
        }

    def settings(self, generation: int, key: str = "assignment-0", **settings: object) -> bytes:
        told = {
            "device": DEVICE,
            "generation": generation,
            "settings": {"street": settings},
            "not_after": datetime.now(timezone.utc) + timedelta(days=1),
        }
        signer = keys.signer(str(self.site.keys / f"{key}.pem"))
        return sign(msgspec.convert(told, Desired), [signer])


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Receiving]:
    site = Site(tmp_path / "site")
    with serving(site.repository.metadata.parent) as (address, asked):
        root = site.repository.first_root()
        yield Receiving(site, Device(tmp_path / "device", root, from_web(address)), asked)


def test_a_signed_one_is_begun_and_then_known(here: Receiving) -> None:
    envelope = here.site.assign(here.site.release("1"), 1)

    assert here.accept(envelope) == "begun"
    assert here.device.settle().code is Code.SUCCEEDED
    assert here.accept(envelope) == "known"
    assert here.settled == [(1, {}), (1, {})]


def test_what_nobody_entitled_signed_changes_a_count_and_nothing_else(here: Receiving) -> None:
    target = here.site.release("1")
    assert here.accept(here.site.assign(target, 5)) == "begun"
    here.device.settle()
    before = here.kept()
    forged = here.site.assign(target, 9, key="targets-0")
    foreign = here.site.assign(target, 9, device="cam-2")
    late = here.site.assign(target, 9, days=-1)
    settings = here.settings(9, "targets-0", rate_hz=1.0)

    for envelope in (forged, foreign, late, settings, b"{}", b"\xff" * 99, b"[" * 70_000):
        here.now_s += 1000.0
        assert here.accept(envelope) == "refused"

    assert here.kept() == before
    assert here.assignments.refused == {
        "signature": 2,
        "foreign": 1,
        "too-late": 1,
        "malformed": 3,
    }
    assert here.settled == [(5, {})]
    assert here.device.machine.newest() == 5


def test_a_lower_generation_is_counted_and_ignored(here: Receiving) -> None:
    target = here.site.release("1")
    here.accept(here.site.assign(target, 5))
    here.device.settle()
    before = here.kept()

    assert here.accept(here.site.assign(target, 4)) == "older"
    assert here.accept(here.settings(4, rate_hz=1.0)) == "older"
    assert (here.assignments.older, here.kept()) == (2, before)


def test_settings_alone_leave_what_serves(here: Receiving) -> None:
    target = here.site.release("1")
    here.accept(here.site.assign(target, 1))
    here.device.settle()
    serves = here.device.layout.current()

    assert here.accept(here.settings(2, rate_hz=5.0)) == "known"

    assert here.settled[-1] == (2, {"street": PipelineSettings(rate_hz=5.0)})
    assert here.device.machine.step() is None
    assert here.device.layout.current() == serves
    assert here.accept(here.site.assign(target, 1)) == "older"
    with pytest.raises(TrustError, match="names no release"):
        here.device.machine.offer(offer(here.settings(3, rate_hz=5.0)))


def test_settings_do_not_stop_an_update_that_is_on_its_way(here: Receiving) -> None:
    here.accept(here.site.assign(here.site.release("1"), 1))
    here.accept(here.settings(2, rate_hz=5.0))

    assert here.device.settle().code is Code.SUCCEEDED


def test_while_the_repository_is_away_an_unknown_signer_is_looked_at_again(
    here: Receiving, tmp_path: Path
) -> None:
    envelope = here.site.assign(here.site.release("1"), 1)
    root = here.site.repository.first_root()
    cut = Device(tmp_path / "cut", root, from_web("http://127.0.0.1:9"))
    assignments = Assignments(cut.verifying, cut.machine, monotonic_s=lambda: here.now_s)

    with pytest.raises(UnreachableError):
        assignments.accept(envelope, here.now_s)

    assert not assignments.refused
    assert cut.store.load().record is None


def test_a_wait_names_its_cause_however_often_it_is_asked(here: Receiving) -> None:
    envelope = here.site.assign(here.site.release("1"), 1)
    here.device.clock.synced = False

    for _ in range(3):
        here.now_s += 1.0
        with pytest.raises(UnreachableError, match="not set by any time source") as held:
            here.accept(envelope)
        assert (held.value.code, "trust_clock" in held.value.hint) == ("unsynced", True)

    here.device.clock.synced = True
    here.now_s += 10.0
    assert here.accept(envelope) == "begun"


def test_a_disk_that_fails_refuses_nothing(here: Receiving) -> None:
    envelope = here.site.assign(here.site.release("1"), 1)
    trust = here.device.layout.trust
    trust.parent.mkdir(parents=True, exist_ok=True)
    trust.write_text("a file where a folder should be")

    with pytest.raises(FileExistsError):
        here.accept(envelope)
    assert not here.assignments.refused

    trust.unlink()
    here.now_s += 10.0
    assert here.accept(envelope) == "begun"


def test_forged_ones_make_few_look_ups(here: Receiving) -> None:
    target = here.site.release("1")
    here.accept(here.site.assign(target, 1))
    here.device.settle()
    asked = len(here.asked)

    for generation in range(50):
        here.now_s += 0.1
        try:
            here.accept(here.site.assign(target, 10 + generation, key="targets-0"))
        except UnreachableError:
            continue

    assert len(here.asked) - asked < 10


def test_a_key_that_was_put_in_its_place_is_looked_up(here: Receiving) -> None:
    target = here.site.release("1")
    old = here.site.assign(target, 1)
    here.accept(old)
    here.device.settle()
    fresh = keys.make(here.site.keys, "assignment-new")
    known = keys.signer(str(here.site.keys / "assignment-0.pem")).public_key
    here.site.repository.rotate("assignment", add=[fresh], remove=[known.keyid])
    here.site.publish()

    here.now_s += 20.0
    assert here.accept(here.site.assign(target, 2, key="assignment-new")) == "begun"
    assert here.accept(here.site.assign(target, 3)) == "refused"
    assert here.assignments.refused == {"signature": 1}
