"""Attacks on metadata, made with python-tuf's own repository simulator, against our device's trust.

The simulator comes with python-tuf's source and not with its wheel: it is fetched once into the
checkout's cache folder; without a network these tests are skipped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

import tuf
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError

from edgetrt.errors import UpdateError
from edgetrt.update.desired import KEYS_TARGET
from edgetrt.update.origin import Reply
from edgetrt.update.trust import Trust
from tests.update.device import Clock

CACHE = Path(__file__).parents[2] / ".cache"
FILE = f"tuf-{tuf.__version__}.tar.gz"
PAST = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(days=1)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def simulator() -> Any:
    """The class, from the source archive of the version that is installed."""
    CACHE.mkdir(exist_ok=True)
    if not (CACHE / FILE).exists():
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
        wanted = [*pip, "-d", str(CACHE), f"tuf=={tuf.__version__}"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(wanted, capture_output=True, timeout=200, check=False)
    if not (CACHE / FILE).exists():
        pytest.skip(f"{FILE} cannot be fetched here")
    name = f"tuf-{tuf.__version__}/tests/repository_simulator.py"
    module = CACHE / f"repository_simulator_{tuf.__version__}.py"
    with tarfile.open(CACHE / FILE) as tar:
        stream = tar.extractfile(name)
        assert stream is not None
        module.write_bytes(stream.read())
    spec = importlib.util.spec_from_file_location("repository_simulator", module)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["repository_simulator"] = found
    spec.loader.exec_module(found)
    return found.RepositorySimulator


class Simulated:
    """A simulator as an origin."""

    def __init__(self, simulator: Any, folder: str) -> None:
        self._simulator, self._folder = simulator, folder

    @property
    def name(self) -> str:
        return f"simulator:{self._folder}"

    @contextlib.contextmanager
    def get(self, path: str, offset: int = 0) -> Iterator[Reply]:
        assert offset == 0
        try:
            chunks = list(self._simulator._fetch(f"https://example.org/{self._folder}/{path}"))
        except DownloadHTTPError as error:
            yield Reply(error.status_code, 0, 0, iter(()))
            return
        yield Reply(200, 0, sum(map(len, chunks)), iter(chunks))


class World:
    """A simulated repository that a device has seen once."""

    def __init__(self, simulator: Any, folder: Path) -> None:
        self.sim = simulator()
        signer = CryptoSigner.generate_ed25519().public_key
        keys = {"v": 1, "threshold": 1, "keys": {signer.keyid: signer.to_dict()}}
        self.sim.add_target("targets", json.dumps(keys).encode(), KEYS_TARGET)
        self.sim.targets.version += 1
        self.sim.compute_metafile_hashes_length = True
        self.sim.update_snapshot()
        self.folder = folder
        self.refresh()

    def refresh(self) -> None:
        trust = Trust(self.folder / "trust", self.sim.signed_roots[0], Clock())
        metadata, targets = Simulated(self.sim, "metadata"), Simulated(self.sim, "targets")
        trust.refresh(metadata, targets)

    def trusted(self) -> dict[str, int]:
        current = self.folder / "trust/current"
        return {
            path.name: json.loads(path.read_bytes())["signed"]["version"]
            for path in current.glob("*.json")
            if path.name != "keys.json"
        }


@pytest.fixture
def world(simulator: Any, tmp_path: Path) -> World:
    return World(simulator, tmp_path)


def timestamp_rollback(sim: Any) -> None:
    sim.timestamp.version -= 1


def snapshot_rollback(sim: Any) -> None:
    sim.timestamp.snapshot_meta.version -= 1
    sim.timestamp.version += 1


def targets_rollback(sim: Any) -> None:
    sim.snapshot.meta["targets.json"].version -= 1
    sim.snapshot.version += 1
    sim.update_timestamp()


def targets_removed(sim: Any) -> None:
    del sim.snapshot.meta["targets.json"]
    sim.snapshot.version += 1
    sim.update_timestamp()


def frozen(role: str) -> Callable[[Any], None]:
    def attack(sim: Any) -> None:
        getattr(sim, role).expires = PAST
        if role == "root":
            sim.root.version += 1
            sim.publish_root()
        elif role == "targets":
            sim.targets.version += 1
            sim.update_snapshot()
        elif role == "snapshot":
            sim.snapshot.version += 1
            sim.update_timestamp()
        else:
            sim.timestamp.version += 1

    return attack


def wrong_key(role: str) -> Callable[[Any], None]:
    def attack(sim: Any) -> None:
        sim.signers[role].clear()
        sim.add_signer(role, CryptoSigner.generate_ed25519())
        if role == "root":
            sim.root.version += 1
            sim.publish_root()
        elif role == "targets":
            sim.targets.version += 1
            sim.update_snapshot()
        elif role == "snapshot":
            sim.snapshot.version += 1
            sim.update_timestamp()
        else:
            sim.timestamp.version += 1

    return attack


def below_threshold(sim: Any) -> None:
    sim.root.add_key(CryptoSigner.generate_ed25519().public_key, "targets")
    sim.root.roles["targets"].threshold = 2
    sim.root.version += 1
    sim.publish_root()
    sim.targets.version += 1
    sim.update_snapshot()


def revoked_key(sim: Any) -> None:
    old = dict(sim.signers["timestamp"])
    sim.rotate_keys("timestamp")
    sim.root.version += 1
    sim.publish_root()
    sim.signers["timestamp"] = old
    sim.timestamp.version += 1


def mixed(sim: Any) -> None:
    sim.targets.version += 1
    sim.update_snapshot()
    sim.snapshot.meta["targets.json"].hashes = {"sha256": "0" * 64}
    sim.snapshot.version += 1
    sim.update_timestamp()


def skipped_root(sim: Any) -> None:
    sim.root.version += 2
    sim.publish_root()
    sim.signed_roots.insert(1, sim.signed_roots[-1])


ATTACKS: list[tuple[str, Callable[[Any], None], str]] = [
    ("timestamp of before", timestamp_rollback, "rollback"),
    ("snapshot of before", snapshot_rollback, "rollback"),
    ("targets of before", targets_rollback, "rollback"),
    ("targets taken out of the snapshot", targets_removed, "metadata"),
    *((f"frozen {r}", frozen(r), "expired") for r in ("root", "timestamp", "snapshot", "targets")),
    *(
        (f"wrong key for {r}", wrong_key(r), "signature")
        for r in ("root", "timestamp", "snapshot", "targets")
    ),
    ("fewer signatures than the threshold", below_threshold, "signature"),
    ("a revoked key", revoked_key, "signature"),
    ("mix and match", mixed, "mix-and-match"),
    ("a root version left out", skipped_root, "rollback"),
]


@pytest.mark.parametrize(
    ("attack", "code"), [row[1:] for row in ATTACKS], ids=[row[0] for row in ATTACKS]
)
def test_an_attack_on_metadata_is_refused(
    world: World, attack: Callable[[Any], None], code: str
) -> None:
    before = world.trusted()
    attack(world.sim)

    with pytest.raises(UpdateError) as refused:
        world.refresh()

    assert refused.value.code == code
    after = world.trusted()
    assert after["targets.json"] == before["targets.json"]
    assert all(after[name] >= version for name, version in before.items())


def test_a_key_rotation_recovers_from_a_version_that_was_run_up(world: World) -> None:
    world.sim.timestamp.version = 99_999
    world.sim.snapshot.version = 99_999
    world.sim.update_timestamp()
    world.refresh()
    for role in ("timestamp", "snapshot"):
        world.sim.rotate_keys(role)
    world.sim.root.version += 1
    world.sim.publish_root()
    world.sim.timestamp.version = world.sim.snapshot.version = 1
    world.sim.timestamp.snapshot_meta.version = 1
    world.sim.timestamp.snapshot_meta.hashes = world.sim.timestamp.snapshot_meta.length = None

    world.refresh()

    assert world.trusted()["timestamp.json"] == 1


def test_metadata_without_end_is_cut_off(world: World) -> None:
    class Endless(Simulated):
        @contextlib.contextmanager
        def get(self, path: str, offset: int = 0) -> Iterator[Reply]:
            if path.startswith("timestamp"):
                yield Reply(200, 0, None, iter(lambda: b" " * 65536, b""))
                return
            with super().get(path, offset) as reply:
                yield reply

    trust = Trust(world.folder / "trust", world.sim.signed_roots[0], Clock())
    with pytest.raises(UpdateError) as refused:
        trust.refresh(Endless(world.sim, "metadata"), Simulated(world.sim, "targets"))

    assert refused.value.code == "length"
