"""Trust in a process of its own: the same answers, the same refusals, and nothing left in the agent."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from tuf.api.metadata import Metadata

from edgetrt.agent import trust_worker
from edgetrt.agent.trust_process import Failed, Pipe, Target, TrustProcess
from edgetrt.errors import TrustError, UnreachableError, UpdateError
from edgetrt.update import keys
from edgetrt.update.audit import FolderOrigin
from edgetrt.update.desired import Desired
from edgetrt.update.origin import Origin, Reply
from edgetrt.update.ports import Trusted
from edgetrt.update.release import Host
from edgetrt.update.states import Code
from edgetrt.update.steps import Sources, Verifying
from tests.update.device import DEVICE, Device, Site, offer


@dataclass
class Noted:
    """A folder as an origin that notes what it is asked for; a test may spoil one file.

    Attributes:
        spoiled: gives another answer for a path.
        pieces: how many pieces of each file were taken.
    """

    folder: Path
    spoiled: dict[str, Callable[[], Iterator[bytes]]] = field(default_factory=dict)
    pieces: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.folder.name}/"

    @contextlib.contextmanager
    def get(self, path: str, offset: int = 0) -> Iterator[Reply]:
        self.pieces[path] = 0
        if path in self.spoiled:
            yield Reply(200, 0, None, self._count(path, self.spoiled[path]()))
        elif not (self.folder / path).exists():
            yield Reply(404, 0, 0, iter(()))
        else:
            with FolderOrigin(self.folder).get(path, offset) as reply:
                yield Reply(reply.status, 0, reply.length, self._count(path, reply.chunks))

    def _count(self, path: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.pieces[path] += 1
            yield chunk


class Scene:
    """A repository with one release, and the process that a device asks about it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site = folder, Site(folder / "site")
        self.target = self.site.release("1")
        public = self.site.repository.metadata.parent
        self.metadata, self.targets = Noted(public / "metadata"), Noted(public / "targets")
        self.trust = TrustProcess(folder / "trust", self.site.repository.first_root(), True)

    def refresh(self) -> None:
        self.trust.refresh(self.metadata, self.targets)

    def pid(self) -> int:
        assert self.trust._process is not None
        return self.trust._process.pid

    def versions(self) -> dict[str, int]:
        found = (self.folder / "trust/current").glob("*.json")
        read = ((path.name, json.loads(path.read_bytes())) for path in found)
        return {name: told["signed"]["version"] for name, told in read if "signed" in told}


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    try:
        yield made
    finally:
        made.trust.rest(0.0)


def test_it_answers_as_the_library_does_here(scene: Scene) -> None:
    scene.refresh()
    desired = scene.trust.signed(scene.site.assign(scene.target, 3), DEVICE)
    trusted = scene.trust.target(scene.target)

    assert (desired.device, desired.generation, desired.target) == (DEVICE, 3, scene.target)
    assert (trusted.wanted.sha256, trusted.wanted.length) == (desired.sha256, desired.length)
    assert trusted.summary().unpacked > 0
    assert set(scene.versions()) >= {"root.json", "timestamp.json", "snapshot.json"}


def test_a_whole_update_is_verified_by_it(scene: Scene, tmp_path: Path) -> None:
    device = Device(tmp_path / "device", scene.site.repository.first_root())
    trust = TrustProcess(device.layout.trust, scene.site.repository.first_root(), True)
    sources = Sources(scene.metadata, (scene.targets,))
    device.verifying = Verifying(DEVICE, Host(), device.layout, trust, sources)
    try:
        device.machine._steps = {**device.machine._steps, **device.verifying.steps()}
        device.machine.offer(offer(scene.site.assign(scene.target, 1)))
        assert device.settle().code is Code.SUCCEEDED
    finally:
        trust.rest(0.0)


def test_signatures_that_do_not_hold_have_their_codes(scene: Scene) -> None:
    def code(envelope: bytes) -> str:
        with pytest.raises(TrustError) as refused:
            scene.trust.signed(envelope, DEVICE)
        assert refused.value.hint or refused.value.code == "signature"
        return refused.value.code

    good = scene.site.assign(scene.target, 1)
    assert code(good) == "signature", "no key is known before the first refresh"
    scene.refresh()
    forged = scene.site.assign(scene.target, 1, key="targets-0")
    assert code(forged) == "signature"
    assert code(scene.site.assign(scene.target, 1, device="cam-2")) == "foreign"
    assert code(scene.site.assign(scene.target, 1, days=-1)) == "too-late"
    assert code(b"[" * 70_000) == "malformed"
    assert scene.trust.signed(good, DEVICE).generation == 1


def test_an_unknown_target_is_refused(scene: Scene) -> None:
    scene.refresh()
    with pytest.raises(TrustError, match="no such release") as refused:
        scene.trust.target("releases/other.tar")
    assert refused.value.code == "unknown-target"


def test_metadata_whose_time_is_over_is_refused(scene: Scene) -> None:
    path = scene.site.repository.metadata / "timestamp.json"
    metadata = Metadata.from_bytes(path.read_bytes())
    metadata.signed.expires = datetime.now(timezone.utc) - timedelta(days=1)
    metadata.sign(keys.signer(str(scene.site.keys / "timestamp-0.pem")))
    path.write_bytes(metadata.to_bytes())

    with pytest.raises(TrustError) as refused:
        scene.refresh()
    assert refused.value.code == "expired"
    assert "metadata/" in refused.value.message


def test_an_endless_file_is_read_no_further_than_it_may_be(scene: Scene) -> None:
    scene.refresh()
    before = scene.versions()
    scene.metadata.spoiled["timestamp.json"] = lambda: itertools.repeat(b" " * 4096)

    with pytest.raises(TrustError) as refused:
        scene.refresh()

    assert refused.value.code == "length"
    assert scene.metadata.pieces["timestamp.json"] <= 6, "the library takes 16,384 bytes"
    assert scene.versions() == before
    scene.metadata.spoiled.clear()
    scene.refresh()  # the file that was left in the middle is out of the way


def test_what_keeps_a_file_away_is_told_as_it_was(scene: Scene) -> None:
    def lost() -> Iterator[bytes]:
        yield b"{"
        raise UnreachableError("the server went away", "Look.", "lost")

    scene.metadata.spoiled["timestamp.json"] = lost
    with pytest.raises(UnreachableError, match="the server went away") as away:
        scene.refresh()
    assert (away.value.code, away.value.hint) == ("lost", "Look.")

    scene.metadata.spoiled.clear()
    (scene.metadata.folder / "timestamp.json").unlink()
    with pytest.raises(UpdateError) as missing:
        scene.refresh()
    assert missing.value.code == "not-found"


def test_its_disk_fails_as_ours_would(tmp_path: Path) -> None:
    (tmp_path / "trust").write_text("a file where a folder should be")
    scene = Scene(tmp_path)
    try:
        with pytest.raises(FileExistsError) as failed:
            scene.refresh()
    finally:
        scene.trust.rest(0.0)
    assert failed.value.filename == str(tmp_path / "trust")


def test_what_ends_in_the_middle_leaves_no_process_behind(scene: Scene) -> None:
    def stopped() -> Iterator[bytes]:
        yield b"{"
        raise KeyboardInterrupt

    scene.metadata.spoiled["timestamp.json"] = stopped
    with pytest.raises(KeyboardInterrupt):
        scene.refresh()
    assert scene.trust._process is None
    scene.metadata.spoiled.clear()
    scene.refresh()


def test_its_death_is_told_and_the_next_question_starts_another(scene: Scene) -> None:
    scene.refresh()
    os.kill(scene.pid(), signal.SIGKILL)

    with pytest.raises(UnreachableError) as died:
        scene.trust.target(scene.target)
    assert died.value.code == "verifier"
    with pytest.raises(UnreachableError) as forgot:
        scene.trust.target(scene.target)
    assert forgot.value.code == "unreachable", "what was refreshed went with it"
    scene.refresh()
    assert scene.trust.target(scene.target).wanted.length > 0


def test_one_that_cannot_start_is_told(tmp_path: Path) -> None:
    trust = TrustProcess(tmp_path, b"", True, (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(UnreachableError) as died:
        trust.signed(b"{}", DEVICE)
    assert died.value.code == "verifier"


def test_no_room_for_it_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    trust = TrustProcess(tmp_path, b"", True, (str(tmp_path / "missing"),))
    for _ in range(2):
        with pytest.raises(UnreachableError, match="cannot be started: No such file") as full:
            trust.signed(b"{}", DEVICE)
        assert full.value.code == "verifier"


def speaking(code: str) -> tuple[str, ...]:
    """A process that has its socket as `end`, and does that."""
    opened = "import socket, sys; end = socket.socket(fileno=int(sys.argv[1])); "
    return (sys.executable, "-c", opened + code)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("end.recv(9); end.sendall(b'\\x7f' * 9); end.recv(1 << 20); end.recv(1)", "at most"),
        ("end.recv(9); end.sendall(bytes(3) + b'\\1\\xc1'); end.recv(1 << 20)", "no message"),
        ("import time; time.sleep(600)", "said nothing"),
    ],
)
def test_one_that_says_too_much_or_nothing_is_ended(tmp_path: Path, code: str, told: str) -> None:
    silent_s = 0.3 if "sleep" in code else 60.0
    trust = TrustProcess(tmp_path, b"", True, speaking(code), silent_s)
    with pytest.raises(UnreachableError, match=told) as ended:
        trust.signed(b"{}", DEVICE)
    assert ended.value.code == "verifier"
    assert trust._process is None


def test_one_that_does_not_listen_is_ended(tmp_path: Path) -> None:
    deaf = speaking("import time; time.sleep(600)")
    trust = TrustProcess(tmp_path, bytes(4 << 20), True, deaf, 0.3)
    with pytest.raises(UnreachableError, match="said nothing"):
        trust.signed(b"{}", DEVICE)
    assert trust._process is None


@dataclass
class Choking:
    """Trust in metadata that nobody thought of."""

    error: Exception

    def target(self, path: str) -> Trusted:
        raise self.error

    def signed(self, envelope: bytes, device: str) -> Desired:
        raise self.error

    def refresh(self, metadata: Origin, targets: Origin) -> None:
        raise self.error

    def rest(self, idle_s: float) -> None:
        """It keeps nothing."""


def test_what_nobody_expected_is_a_refusal() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        agent = trust_worker.Agent(Pipe(theirs))
        told = trust_worker.answer(Target("a.tar"), Choking(KeyError("length")), agent)
        assert isinstance(told, Failed)
        refused = told.again()
        assert isinstance(refused, TrustError)
        assert (refused.code, refused.message) == ("metadata", "metadata: KeyError: 'length'")
        with pytest.raises(MemoryError):
            trust_worker.answer(Target("a.tar"), Choking(MemoryError()), agent)


def test_what_a_library_prints_is_no_answer(scene: Scene) -> None:
    printing = "print('x' * 9, flush=True)\nfrom edgetrt.agent.trust_worker import main\nmain()"
    root = scene.site.repository.first_root()
    trust = TrustProcess(scene.folder / "trust", root, True, (sys.executable, "-c", printing))
    try:
        trust.refresh(scene.metadata, scene.targets)
        assert trust.target(scene.target).wanted.length > 0
    finally:
        trust.rest(0.0)


def test_it_goes_when_nobody_asked_for_a_while(scene: Scene) -> None:
    scene.refresh()
    pid = scene.pid()
    scene.trust.rest(3600.0)
    assert scene.pid() == pid, "it was asked a moment ago"

    scene.trust.rest(0.0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert scene.trust.signed(scene.site.assign(scene.target, 1), DEVICE).generation == 1


def test_the_agent_itself_loads_none_of_it() -> None:
    heavy = "{'tuf', 'securesystemslib', 'cryptography'}"
    code = (
        "import sys\n"
        "import edgetrt.agent.process, edgetrt.agent.engines, edgetrt.agent.proving\n"
        "import edgetrt.agent.trust_process, edgetrt.agent.updating\n"
        "import edgetrt.app.processes, edgetrt.app.updates, edgetrt.update.local\n"
        "from edgetrt.update.desired import peek\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
