"""A repository, a web server, a device: real files, real sockets, no engines."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from edgetrt import wire
from edgetrt.agent.engines import UnitEngines
from edgetrt.asking import Answer
from edgetrt.errors import EngineBuildError
from edgetrt.update import durable, keys
from edgetrt.update.built import Built, BuiltPipeline, Failure
from edgetrt.update.built import write as write_built
from edgetrt.update.conditions import SwitchConditions
from edgetrt.update.desired import Desired, Policy, sign
from edgetrt.update.layout import Layout
from edgetrt.update.machine import Machine, Ports
from edgetrt.update.ports import Trial
from edgetrt.update.record import Check, Figures, FileStore, Offer, Record, Store, Verdict
from edgetrt.update.release import Host, Release
from edgetrt.update.repository import Repository
from edgetrt.update.requests import Requests
from edgetrt.update.states import State
from edgetrt.update.steps import Sources, Step, Switching, Verifying
from edgetrt.update.trust import Trust
from edgetrt.update.web import WebOrigin

ROLES = ("root", "targets", "snapshot", "timestamp", "assignment")
DEVICE = "cam-1"


@dataclass
class Clock:
    """A calendar that a test turns."""

    at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    synced: bool = True

    def now(self) -> datetime:
        return self.at

    def synchronized(self) -> bool:
        return self.synced


def write_release(folder: Path, version: str, network: bytes, needs: str = "{}") -> Path:
    """The files of a release; the network is any bytes."""
    (folder / "golden").mkdir(parents=True)
    (folder / "street.onnx").write_bytes(network)
    (folder / "golden/1.npz").write_bytes(b"input")
    (folder / "golden/1.out.npz").write_bytes(b"output")
    (folder / "recipe.yaml").write_text("model: street.onnx\nprecision: fp16\n")
    (folder / "street.yaml").write_text(
        "name: street\nmodel: recipe.yaml\nsource: 'synthetic:64x48'\n"
    )
    (folder / "release.yaml").write_text(
        f"name: street\nversion: {version!r}\nneeds: {needs}\npipelines:\n"
        "  - pipeline: street.yaml\n"
        "    golden: [{input: golden/1.npz, expected: golden/1.out.npz}]\n"
        "    bands: {fps_min: 20, p99_ms_max: 60, prove_s: 0}\n"
    )
    return folder / "release.yaml"


class Site:
    """A repository with its keys."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.keys = folder, folder / "keys"
        made = {
            role: [keys.make(self.keys, f"{role}-{n}") for n in range(3 if role == "root" else 1)]
            for role in ROLES
        }
        self.repository = Repository.create(folder / "repository", made, {"root": 2})
        self.publish()

    def publish(self) -> None:
        signers = keys.folder_signers(self.keys)
        self.repository.sign(signers.values())
        self.repository.publish(signers)

    def release(self, version: str, network: bytes = b"network", needs: str = "{}") -> str:
        path = write_release(self.folder / f"src-{version}", version, network, needs)
        target = self.repository.add(path)
        self.publish()
        return target

    def assign(
        self,
        target: str,
        generation: int,
        *,
        device: str = DEVICE,
        policy: Policy | None = None,
        key: str = "assignment-0",
        days: float = 1,
        sha256: str | None = None,
    ) -> bytes:
        found = self.repository.load("targets").signed.targets[target]
        desired = Desired(
            device=device,
            generation=generation,
            target=target,
            sha256=sha256 or found.hashes["sha256"],
            length=found.length,
            policy=policy or Policy(),
            not_after=datetime.now(timezone.utc) + timedelta(days=days),
        )
        return sign(desired, [keys.signer(str(self.keys / f"{key}.pem"))])


class Handler(http.server.SimpleHTTPRequestHandler):
    """A quiet file server that knows ranges and notes what it was asked for."""

    protocol_version = "HTTP/1.1"
    timeout = 10

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.server.asked.append((self.path, begin))  # type: ignore[attr-defined]
        if begin > len(data):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        self.wfile.write(data[begin:])


@contextmanager
def serving(
    folder: Path, handler: Callable[..., http.server.BaseHTTPRequestHandler] = Handler
) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """A web server; yields its address and what it was asked for."""
    made = functools.partial(handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), made) as server:
        server.daemon_threads = True
        asked: list[tuple[str, int]] = []
        server.asked = asked  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


class FileEngines:
    """Engines that are files: what was built, and which release serves. They survive a kill."""

    def __init__(self, folder: Path, fails: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._fails = folder, fails

    def build(self, folder: Path, release: Release) -> Built | None:
        if self._fails == "build":
            raise EngineBuildError("street: the optimiser ran out of memory")
        failure = (
            Failure(code="golden", message="street: differs") if self._fails == "golden" else None
        )
        checks = (Check(name="golden 1", ok=False, value="0.5", limit="0.02"),) if failure else ()
        part = BuiltPipeline(
            name="street",
            engine="e" * 64,
            backend="fake",
            precision="fp16",
            model="street.onnx",
            checks=checks,
        )
        made = Built(digest=folder.name, built_at=0.0, pipelines=(part,), failure=failure)
        durable.replace(self._folder / f"built-{folder.name}", release.version.encode())
        return made

    def rest(self) -> None:
        """Nothing goes on here between two calls."""

    def activate(self, folder: Path, release: Release) -> tuple[Check, ...]:
        if self._fails == "activate":
            raise EngineBuildError("street: the runtime did not take it")
        assert (self._folder / f"built-{folder.name}").exists()
        durable.replace(self._folder / "serving", folder.name.encode())
        agrees = self._fails != "disagree"
        return (
            (Check(name="agreement", ok=agrees, value="50 %", limit="90 %"),) if not agrees else ()
        )

    def restore(self, folder: Path | None) -> None:
        durable.replace(self._folder / "serving", b"" if folder is None else folder.name.encode())

    def serving(self) -> str:
        path = self._folder / "serving"
        return path.read_text() if path.exists() else ""


class Processes:
    """The supervisor and the runtime as `UnitEngines` sees them, over files; a power cut ends a build.

    Args:
        root: folder of updates.
        folder: for what the runtime serves, which it says again after a cut.
        moment: called wherever the plug could be pulled.
    """

    def __init__(self, root: Path, folder: Path, moment: Callable[[str], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._root, self._folder, self._moment = root, folder, moment
        self.states: dict[str, str] = {}

    def start(self, unit: str) -> None:
        self._moment(f"before starting {unit[:5]}")
        self.states[unit] = "activating"
        digest = unit.partition("@")[2]
        part = BuiltPipeline(
            name="street", engine=digest, backend="fake", precision="fp16", model="street.onnx"
        )
        self._moment("while building")
        write_built(self._root, Built(digest=digest, built_at=0.0, pipelines=(part,)))
        self._moment("behind building")

    def restart(self, unit: str) -> None:
        """It always runs."""

    def stop(self, unit: str) -> None:
        self.states[unit] = "inactive"

    def state(self, unit: str) -> str:
        """At work when it is asked for the first time, done at the second."""
        return self.states.pop(unit, "inactive")

    def reason(self, unit: str) -> str:
        return ""

    def look(self, _: int) -> Answer:
        """The runtime takes what `current` leads to, between two moments."""
        self._moment("before the runtime looks")
        digest = Layout(self._root).current()
        durable.replace(self._folder / "serving", digest.encode())
        self._moment("behind the runtime's look")
        taken = (wire.Taken(pipeline="street", did="swapped", engine=digest),) if digest else ()
        return Answer("taken", "", taken)


class Room:
    """Headroom that a test takes away."""

    def __init__(self) -> None:
        self.lacks = ""

    def lacking(self) -> str:
        return self.lacks


class Judge:
    """A prover with its mind made up."""

    def __init__(self, ok: bool = True) -> None:
        self._ok, self.fps = ok, 30.0

    def figures(self) -> dict[str, Figures]:
        return {"street": Figures(fps=self.fps, p99_ms=20.0, frames=600)}

    def look(self, trial: Trial) -> Verdict | None:
        fps = 30.0 if self._ok else 11.5
        band = trial.release.pipelines[0].bands.fps_min or 0.0
        check = Check(name="fps", ok=fps >= band, value=f"{fps:g} Hz", limit=f">= {band:g} Hz")
        return Verdict(checks=(check,), log=("the last line",))


class Device:
    """One device; made anew from its folder, as after a restart.

    With a `moment` its engines are those of the agent, over processes that are files.
    """

    def __init__(
        self,
        folder: Path,
        root: bytes,
        sources: Sources | None = None,
        *,
        good: bool = True,
        fails: str = "",
        host: Host | None = None,
        clock: Clock | None = None,
        wrap: Callable[[State, Step], Step] = lambda _, step: step,
        store: Callable[[Store], Store] = lambda store: store,
        moment: Callable[[str], None] | None = None,
    ) -> None:
        self.folder, self.clock = folder, clock or Clock()
        self.layout, self.room, self.judge = Layout(folder / "update"), Room(), Judge(good)
        self.engines = FileEngines(folder / "engines", fails)
        self.trust = Trust(self.layout.trust, root, self.clock)
        self.store = store(FileStore(self.layout.root))
        self.requests = Requests(self.layout.root)
        self.told: list[Record] = []
        self.verifying = Verifying(
            DEVICE, host or Host(), self.layout, self.trust, sources, now_s=self.now_s
        )
        updates = self.layout.root
        world = Processes(updates, folder / "engines", moment or (lambda _: None))
        real = UnitEngines(updates, world, world.look, sleep=lambda _: None)
        switching = Switching(
            self.layout,
            self.engines if moment is None else real,
            SwitchConditions(self.layout.root, self.room),
            self.judge,
            self.now_s,
        )
        steps: Mapping[State, Step] = {
            state: wrap(state, step)
            for state, step in {**self.verifying.steps(), **switching.steps()}.items()
        }
        ports = Ports(DEVICE, self.verifying.known_signer, self.now_s, self.told.append)
        self.machine = Machine(self.store, steps, self.requests, ports)

    def now_s(self) -> float:
        return self.clock.now().timestamp()

    def record(self) -> Record:
        record = self.store.load().record
        assert record is not None
        return record

    def settle(self, most: int = 200) -> Record:
        """Go on until nothing is left to do."""
        for _ in range(most):
            wait = self.machine.step()
            if wait is None:
                return self.record()
            self.clock.at += timedelta(seconds=wait)
        raise AssertionError(f"still at it: {self.record()}")

    def until(self, state: State, most: int = 50) -> Record:
        for _ in range(most):
            if self.record().state is state:
                return self.record()
            self.machine.step()
        raise AssertionError(f"never in {state}: {self.record()}")


def from_web(address: str) -> Sources:
    return Sources(WebOrigin(f"{address}/metadata"), (WebOrigin(f"{address}/targets"),))


def offer(envelope: bytes, bundle: Path | None = None) -> Offer:
    return Offer(envelope=envelope.decode(), bundle="" if bundle is None else str(bundle))
