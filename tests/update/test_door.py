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
from edgetrt.update.desired import Desired, sign
from edgetrt.update.door import Door
from edgetrt.update.states import Code
from tests.update.device import DEVICE, Device, Site, from_web, offer, serving


@dataclass
class Porch:
    """A site on the web, and a device behind a door."""

    site: Site
    device: Device
    asked: list[tuple[str, int]]
    now_s: float = 0.0
    settled: list[tuple[int, Mapping[str, PipelineSettings]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.door = Door(
            self.device.verifying,
            self.device.machine,
            lambda generation, settings: self.settled.append((generation, settings)),
            lambda: self.now_s,
        )

    def knock(self, envelope: bytes) -> str:
        clock = self.device.clock
        clock.at = max(clock.at, datetime.now(timezone.utc))
        answer = self.door.knock(envelope, self.now_s)
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
def porch(tmp_path: Path) -> Iterator[Porch]:
    site = Site(tmp_path / "site")
    with serving(site.repository.metadata.parent) as (address, asked):
        root = site.repository.first_root()
        yield Porch(site, Device(tmp_path / "device", root, from_web(address)), asked)


def test_a_signed_one_is_begun_and_then_known(porch: Porch) -> None:
    envelope = porch.site.assign(porch.site.release("1"), 1)

    assert porch.knock(envelope) == "begun"
    assert porch.device.settle().code is Code.SUCCEEDED
    assert porch.knock(envelope) == "known"
    assert porch.settled == [(1, {}), (1, {})]


def test_what_nobody_entitled_signed_changes_a_count_and_nothing_else(porch: Porch) -> None:
    target = porch.site.release("1")
    assert porch.knock(porch.site.assign(target, 5)) == "begun"
    porch.device.settle()
    before = porch.kept()
    forged = porch.site.assign(target, 9, key="targets-0")
    foreign = porch.site.assign(target, 9, device="cam-2")
    late = porch.site.assign(target, 9, days=-1)
    settings = porch.settings(9, "targets-0", rate_hz=1.0)

    for envelope in (forged, foreign, late, settings, b"{}", b"\xff" * 99, b"[" * 70_000):
        porch.now_s += 1000.0
        assert porch.knock(envelope) == "refused"

    assert porch.kept() == before
    assert porch.door.refused == {"signature": 2, "foreign": 1, "too-late": 1, "malformed": 3}
    assert porch.settled == [(5, {})]
    assert porch.device.machine.newest() == 5


def test_a_lower_generation_is_counted_and_ignored(porch: Porch) -> None:
    target = porch.site.release("1")
    porch.knock(porch.site.assign(target, 5))
    porch.device.settle()
    before = porch.kept()

    assert porch.knock(porch.site.assign(target, 4)) == "older"
    assert porch.knock(porch.settings(4, rate_hz=1.0)) == "older"
    assert (porch.door.older, porch.kept()) == (2, before)


def test_settings_alone_leave_what_serves(porch: Porch) -> None:
    target = porch.site.release("1")
    porch.knock(porch.site.assign(target, 1))
    porch.device.settle()
    serves = porch.device.layout.current()

    assert porch.knock(porch.settings(2, rate_hz=5.0)) == "known"

    assert porch.settled[-1] == (2, {"street": PipelineSettings(rate_hz=5.0)})
    assert porch.device.machine.step() is None
    assert porch.device.layout.current() == serves
    assert porch.knock(porch.site.assign(target, 1)) == "older"
    with pytest.raises(TrustError, match="names no release"):
        porch.device.machine.offer(offer(porch.settings(3, rate_hz=5.0)))


def test_settings_do_not_stop_an_update_that_is_on_its_way(porch: Porch) -> None:
    porch.knock(porch.site.assign(porch.site.release("1"), 1))
    porch.knock(porch.settings(2, rate_hz=5.0))

    assert porch.device.settle().code is Code.SUCCEEDED


def test_while_the_repository_is_away_an_unknown_signer_is_looked_at_again(
    porch: Porch, tmp_path: Path
) -> None:
    envelope = porch.site.assign(porch.site.release("1"), 1)
    root = porch.site.repository.first_root()
    cut = Device(tmp_path / "cut", root, from_web("http://127.0.0.1:9"))
    door = Door(cut.verifying, cut.machine, monotonic_s=lambda: porch.now_s)

    with pytest.raises(UnreachableError):
        door.knock(envelope, porch.now_s)

    assert not door.refused
    assert cut.store.load().record is None


def test_a_wait_names_its_cause_however_often_it_is_asked(porch: Porch) -> None:
    envelope = porch.site.assign(porch.site.release("1"), 1)
    porch.device.clock.synced = False

    for _ in range(3):
        porch.now_s += 1.0
        with pytest.raises(UnreachableError, match="not set by any time source") as held:
            porch.knock(envelope)
        assert (held.value.code, "trust_clock" in held.value.hint) == ("unsynced", True)

    porch.device.clock.synced = True
    porch.now_s += 10.0
    assert porch.knock(envelope) == "begun"


def test_forged_ones_make_few_look_ups(porch: Porch) -> None:
    target = porch.site.release("1")
    porch.knock(porch.site.assign(target, 1))
    porch.device.settle()
    asked = len(porch.asked)

    for generation in range(50):
        porch.now_s += 0.1
        try:
            porch.knock(porch.site.assign(target, 10 + generation, key="targets-0"))
        except UnreachableError:
            continue

    assert len(porch.asked) - asked < 10


def test_a_key_that_was_put_in_its_place_is_looked_up(porch: Porch) -> None:
    target = porch.site.release("1")
    old = porch.site.assign(target, 1)
    porch.knock(old)
    porch.device.settle()
    fresh = keys.make(porch.site.keys, "assignment-new")
    known = keys.signer(str(porch.site.keys / "assignment-0.pem")).public_key
    porch.site.repository.rotate("assignment", add=[fresh], remove=[known.keyid])
    porch.site.publish()

    porch.now_s += 20.0
    assert porch.knock(porch.site.assign(target, 2, key="assignment-new")) == "begun"
    assert porch.knock(porch.site.assign(target, 3)) == "refused"
    assert porch.door.refused == {"signature": 1}
