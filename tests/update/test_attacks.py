"""Attacks on a device that takes updates: each has its own word, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from tuf.api.metadata import Metadata

from edgetrt.errors import ConfigError, TrustError, UpdateError
from edgetrt.update import keys
from edgetrt.update.audit import audit
from edgetrt.update.clock import BUILT
from edgetrt.update.desired import KEYS_TARGET
from edgetrt.update.origin import Origin
from edgetrt.update.release import Host
from edgetrt.update.states import Code, State
from tests.update.device import Clock, Device, Site, from_web, offer, serving


@dataclass
class World:
    """A site, its web server, and where a device lives on which version 1 serves."""

    site: Site
    url: str
    folder: Path
    host: Host

    def device(self, clock: Clock | None = None) -> Device:
        root = self.site.repository.first_root()
        return Device(self.folder, root, from_web(self.url), host=self.host, clock=clock)

    def stored(self, target: str) -> Path:
        found = self.site.repository.load("targets").signed.targets[target]
        name = target.rpartition("/")[2]
        return self.site.repository.targets / "releases" / f"{found.hashes['sha256']}.{name}"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    site = Site(tmp_path / "site")
    first = site.release("1", b"one" * 1000)
    with serving(site.repository.folder / "public") as (url, _):
        world = World(site, url, tmp_path / "device", Host(board="orin-nx-16gb"))
        device = world.device()
        device.machine.offer(offer(site.assign(first, 5)))
        assert device.settle().code is Code.SUCCEEDED
        yield world


def wrong_key(world: World) -> bytes:
    return world.site.assign(world.site.release("2"), 6, key="targets-0")


def too_late(world: World) -> bytes:
    return world.site.assign(world.site.release("2"), 6, days=-1)


def other_digest(world: World) -> bytes:
    return world.site.assign(world.site.release("2"), 6, sha256="0" * 64)


def another_release_of_that_generation(world: World) -> bytes:
    return world.site.assign(world.site.release("2"), 5)


def withdrawn(world: World) -> bytes:
    envelope = world.site.assign(world.site.release("2"), 6)
    world.site.repository.withdraw("releases/street-2.tar")
    world.site.publish()
    return envelope


def no_release(world: World) -> bytes:
    return world.site.assign(KEYS_TARGET, 6)


def other_board(world: World) -> bytes:
    return world.site.assign(world.site.release("2", needs="{boards: [orin-nano-8gb]}"), 6)


def newer_tensorrt(world: World) -> bytes:
    return world.site.assign(world.site.release("2", needs="{tensorrt_min: '10.3'}"), 6)


def tampered(at: float) -> Callable[[World], bytes]:
    def attack(world: World) -> bytes:
        target = world.site.release("2", b"two" * 1000)
        path = world.stored(target)
        data = bytearray(path.read_bytes())
        data[int(at * (len(data) - 1))] ^= 1
        path.write_bytes(data)
        return world.site.assign(target, 6)

    return attack


def longer(world: World) -> bytes:
    target = world.site.release("2")
    with world.stored(target).open("ab") as file:
        file.write(b"more")
    return world.site.assign(target, 6)


def gone(world: World) -> bytes:
    target = world.site.release("2")
    world.stored(target).unlink()
    return world.site.assign(target, 6)


def revoked_assignment_key(world: World) -> bytes:
    site = world.site
    old = keys.public(site.keys / "assignment-0.pem")
    envelope = site.assign(site.release("2"), 6)
    site.repository.rotate("assignment", [keys.make(site.keys, "assignment-1")], [old.keyid])
    site.publish()
    return envelope


def frozen(role: str) -> Callable[[World], bytes]:
    """Metadata whose time is over, with good signatures."""

    def attack(world: World) -> bytes:
        site = world.site
        envelope = site.assign(site.release("2"), 6)
        path = site.repository.metadata / f"{role}.json"
        metadata = Metadata.from_bytes(path.read_bytes())
        metadata.signed.expires = datetime.now(timezone.utc) - timedelta(days=1)
        metadata.signed.version += 1
        metadata.sign(keys.signer(str(site.keys / f"{role}-0.pem")))
        path.write_bytes(metadata.to_bytes())
        return envelope

    return attack


def old_metadata(world: World) -> bytes:
    """A mirror that shows last week's state."""
    path = world.site.repository.metadata / "timestamp.json"
    before = path.read_bytes()
    envelope = world.site.assign(world.site.release("2"), 6)
    world.device().trust.refresh(*_origins(world))
    path.write_bytes(before)
    return envelope


def unsigned(world: World) -> bytes:
    envelope = world.site.assign(world.site.release("2"), 6)
    path = world.site.repository.metadata / "timestamp.json"
    metadata = Metadata.from_bytes(path.read_bytes())
    metadata.signed.version += 1
    metadata.signatures.clear()
    path.write_bytes(metadata.to_bytes())
    return envelope


def _origins(world: World) -> tuple[Origin, Origin]:
    sources = from_web(world.url)
    return sources.metadata, sources.targets[0]


ATTACKS: list[tuple[str, Callable[[World], bytes], Code, str, State]] = [
    ("signed by another key", wrong_key, Code.REJECTED, "signature", State.VERIFY),
    ("a key taken back", revoked_assignment_key, Code.REJECTED, "signature", State.VERIFY),
    ("too late", too_late, Code.REJECTED, "too-late", State.VERIFY),
    ("another digest than signed", other_digest, Code.REJECTED, "mismatch", State.VERIFY),
    (
        "a generation used twice",
        another_release_of_that_generation,
        Code.REJECTED,
        "replayed",
        State.VERIFY,
    ),
    ("withdrawn", withdrawn, Code.REJECTED, "unknown-target", State.VERIFY),
    ("a target, but no release", no_release, Code.REJECTED, "not-a-release", State.VERIFY),
    ("another board", other_board, Code.REJECTED, "incompatible", State.VERIFY),
    ("a newer TensorRT", newer_tensorrt, Code.REJECTED, "incompatible", State.VERIFY),
    ("freeze", frozen("timestamp"), Code.REJECTED, "expired", State.VERIFY),
    ("rollback of the repository", old_metadata, Code.REJECTED, "rollback", State.VERIFY),
    ("unsigned metadata", unsigned, Code.REJECTED, "signature", State.VERIFY),
    ("first byte", tampered(0.0), Code.REJECTED, "digest", State.FETCH),
    ("a byte of the manifest", tampered(0.05), Code.REJECTED, "digest", State.FETCH),
    ("a byte in the middle", tampered(0.5), Code.REJECTED, "digest", State.FETCH),
    ("last byte", tampered(1.0), Code.REJECTED, "digest", State.FETCH),
    ("longer", longer, Code.REJECTED, "length", State.FETCH),
    ("not there", gone, Code.FAILED, "not-found", State.FETCH),
]


@pytest.mark.parametrize(
    ("attack", "code", "reason", "state"), [row[1:] for row in ATTACKS], ids=[r[0] for r in ATTACKS]
)
def test_an_attack_is_refused_and_changes_nothing(
    world: World, attack: Callable[[World], bytes], code: Code, reason: str, state: State
) -> None:
    envelope = attack(world)
    device = world.device()
    before = device.layout.current()
    device.machine.offer(offer(envelope))

    record = device.settle()

    assert (record.code, record.reason, record.state) == (code, reason, state)
    assert record.detail
    assert record.hint
    assert device.layout.current() == device.engines.serving() == before
    assert [path.name for path in (device.layout.root / "releases").iterdir()] == [before]
    assert list(device.layout.downloads.glob("*")) == [
        path for path in device.layout.downloads.glob("*") if path.suffix in (".part", ".at")
    ]


def test_another_devices_assignment_is_not_even_stored(world: World) -> None:
    device = world.device()
    before = device.store.load()
    envelope = world.site.assign("releases/street-1.tar", 6, device="cam-2")

    with pytest.raises(TrustError) as refused:
        device.machine.offer(offer(envelope))

    assert refused.value.code == "foreign"
    assert device.store.load() == before


def test_an_assignment_of_last_month_is_ignored_and_told(world: World) -> None:
    device = world.device()
    before = device.store.load()

    answer = device.machine.offer(offer(world.site.assign("releases/street-1.tar", 4)))

    assert (answer.answer, answer.detail) == ("older", "generation 4, 5 was seen before")
    assert device.store.load() == before


@pytest.mark.parametrize("noise", [b"", b"{}", b"[1]", b"\xff", b"{" * 100_000, b'{"payload":1}'])
def test_noise_is_refused(world: World, noise: bytes) -> None:
    with pytest.raises(TrustError) as refused:
        world.device().machine.offer(offer(noise.decode("latin-1").encode()))

    assert refused.value.code == "malformed"


def test_a_forged_assignment_does_not_make_the_real_one_look_known(world: World) -> None:
    target = world.site.release("2", b"two" * 1000)
    device = world.device()
    device.machine.offer(offer(world.site.assign(target, 6, key="targets-0")))
    assert device.settle().code is Code.REJECTED

    answer = device.machine.offer(offer(world.site.assign(target, 6)))

    assert answer.answer == "begun"
    assert device.settle().code is Code.SUCCEEDED


def test_a_forged_assignment_does_not_raise_the_floor(world: World) -> None:
    device = world.device()
    device.machine.offer(offer(world.site.assign("releases/street-1.tar", 9**9, key="targets-0")))
    device.settle()

    assert device.store.load().floor == 5


def test_rotated_root_and_online_keys_are_followed(world: World) -> None:
    site = world.site
    for role in ("root", "targets", "snapshot", "timestamp", "assignment"):
        old = keys.public(site.keys / f"{role}-0.pem")
        site.repository.rotate(role, [keys.make(site.keys, f"{role}-new")], [old.keyid])
        site.publish()
    target = site.release("2", b"two" * 1000)
    device = world.device()
    device.machine.offer(offer(site.assign(target, 6, key="assignment-new")))

    assert device.settle().code is Code.SUCCEEDED


def test_a_repository_verifies_right_after_its_targets_key_was_replaced(world: World) -> None:
    site = world.site
    old = keys.public(site.keys / "targets-0.pem")
    site.repository.rotate("targets", [keys.make(site.keys, "targets-new")], [old.keyid])
    old_signers = {k: v for k, v in keys.folder_signers(site.keys).items() if k == old.keyid}
    roots = [keys.signer(str(path)) for path in site.keys.glob("root-*.pem")]
    site.repository.sign([*roots, *old_signers.values()])
    with pytest.raises(TrustError):
        site.repository.publish(keys.folder_signers(site.keys))
    assert audit(site.repository.folder / "public", site.repository.first_root())

    site.publish()
    assert audit(site.repository.folder / "public", site.repository.first_root())


def test_one_root_key_alone_rotates_nothing(world: World) -> None:
    site = world.site
    stolen = keys.signer(str(site.keys / "root-0.pem"))
    site.repository.rotate("targets", [keys.make(site.keys / "thief", "targets")], [])

    state, targets = site.repository.sign([stolen])

    assert (targets.role, targets.signed) == ("targets", 0)
    assert (state.signed, state.threshold, len(state.missing)) == (1, 2, 2)
    with pytest.raises(TrustError) as refused:
        site.repository.publish(keys.folder_signers(site.keys))
    assert refused.value.code == "threshold"


@pytest.mark.parametrize(
    ("clock", "code"),
    [
        (Clock(synced=False), "not set by any time source"),
        (Clock(at=datetime(1970, 1, 2, tzinfo=timezone.utc)), "but it was"),
    ],
    ids=["unsynced", "1970"],
)
def test_without_a_clock_updates_wait_and_serving_goes_on(
    world: World, clock: Clock, code: str
) -> None:
    device = world.device(clock)
    device.machine.offer(offer(world.site.assign(world.site.release("2", b"two" * 1000), 6)))

    assert (device.machine.step() or 0) > 0
    record = device.record()
    assert (record.state, record.code) == (State.VERIFY, None)
    assert code in record.held

    clock.at, clock.synced = datetime.now(timezone.utc), True
    assert device.settle().code is Code.SUCCEEDED


def test_a_clock_in_the_future_refuses_and_does_not_stick(world: World) -> None:
    clock = Clock(at=datetime(2100, 1, 1, tzinfo=timezone.utc))
    envelope = world.site.assign(world.site.release("2", b"two" * 1000), 6)
    device = world.device(clock)
    device.machine.offer(offer(envelope))
    assert (device.settle().code, device.record().reason) == (Code.REJECTED, "expired")
    assert device.layout.current() == device.engines.serving() != ""

    device = world.device()
    device.machine.offer(offer(world.site.assign("releases/street-2.tar", 7)))
    assert device.settle().code is Code.SUCCEEDED


def test_the_clock_cannot_go_back_behind_what_metadata_told(world: World) -> None:
    assert (world.device().trust.now() - timedelta(minutes=5)) > BUILT
    early = Clock(at=datetime.now(timezone.utc) - timedelta(hours=1))

    with pytest.raises(UpdateError) as held:
        world.device(early).trust.now()

    assert held.value.code == "clock"


def test_metadata_is_kept_in_a_folder_named_from_where_one_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.folder.parent)
    root = world.site.repository.first_root()
    for generation in (6, 7):
        device = Device(Path(world.folder.name), root, from_web(world.url), host=world.host)
        device.machine.offer(offer(world.site.assign("releases/street-1.tar", generation)))
        assert device.settle().code is Code.SUCCEEDED


def test_a_version_names_one_content(world: World) -> None:
    folder = world.site.folder / "src-1"
    (folder / "street.onnx").write_bytes(b"other")

    with pytest.raises(ConfigError, match="another content"):
        world.site.repository.add(folder / "release.yaml")
