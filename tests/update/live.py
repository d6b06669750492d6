"""A whole device for tests of updates: real agent, real runtime, real broker, a web server, tiny networks."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgetrt import wire
from edgetrt.update import keys
from edgetrt.update.desired import Desired, sign
from edgetrt.update.record import FileStore, Memory
from tests import releases
from tests.broker import Observer
from tests.update.device import DEVICE, Site

ROOT = Path(wire.__file__).parents[2]
REPORTED, EVENT = wire.reported(DEVICE), wire.event(DEVICE)

BANDS = "{fps_min: 10, p99_ms_max: 2000, worse_percent: 100, prove_s: 1}"
"""Bands that a busy machine keeps as well."""

PIPELINE = """
name: tiny
model: tiny.onnx
source: synthetic:64x64?rate_hz=20
backend: onnxruntime
threads: 1
"""


class Press:
    """A site that makes releases of tiny networks; each seed is another network."""

    def __init__(self, folder: Path) -> None:
        self.site, self._folder = Site(folder / "site"), folder
        self.public = self.site.repository.metadata.parent
        self.digests: dict[str, str] = {}

    def release(self, seed: int, slow: int = 0, ballast_mb: int = 0, **how: object) -> str:
        """Publish one, which does so many large products besides; returns its target.

        So many MB of it are a tensor that nothing uses.
        """
        how.setdefault("bands", BANDS)
        how.setdefault("source", "synthetic:64x64?rate_hz=20")
        path = releases.write(self._folder / f"src-{seed}", seed, **how)  # type: ignore[arg-type]
        if slow:
            slow_down(path.with_name("tiny.onnx"), slow)
        if ballast_mb:
            weigh_down(path.with_name("tiny.onnx"), ballast_mb)
        target = self.site.repository.add(path)
        self.site.publish()
        found = self.site.repository.load("targets").signed.targets[target]
        self.digests[target] = str(found.hashes["sha256"])
        return target

    def assign(self, target: str, generation: int, **more: object) -> bytes:
        """The envelope that a controller would publish."""
        return self.site.assign(target, generation, **more)  # type: ignore[arg-type]

    def settings(
        self, generation: int, settings: dict[str, dict[str, object]], key: str = "assignment-0"
    ) -> bytes:
        """One that changes settings only."""
        told = {
            "device": DEVICE,
            "generation": generation,
            "settings": settings,
            "not_after": datetime.now(timezone.utc) + timedelta(days=1),
        }
        desired = msgspec.convert(told, Desired)
        return sign(desired, [keys.signer(str(self.site.keys / f"{key}.pem"))])


def slow_down(path: Path, products: int, side: int = 800) -> None:
    """Let a network multiply large matrices on the way; what it answers stays the same."""
    model = onnx.load(path)
    graph = model.graph
    random = np.random.default_rng(0)
    big = random.standard_normal((side, side)).astype(np.float32) / side
    graph.initializer.append(numpy_helper.from_array(big, "big"))
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "nought"))
    made = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Add", ["big", "mean"], ["m0"]),
        *(helper.make_node("MatMul", [f"m{n}", "big"], [f"m{n + 1}"]) for n in range(products)),
        helper.make_node("ReduceMean", [f"m{products}"], ["all"], axes=[0, 1], keepdims=0),
        helper.make_node("Mul", ["all", "nought"], ["none"]),
        helper.make_node("Add", ["flat", "none"], ["output0"]),
    ]
    (last,) = (node for node in graph.node if "output0" in node.output)
    last.output[0] = "flat"
    graph.node.extend(made)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def weigh_down(path: Path, megabytes: int) -> None:
    """Make a network's file larger by a tensor that nothing uses."""
    model = onnx.load(path)
    ballast = np.zeros(megabytes * 250_000, np.float32)
    model.graph.initializer.append(numpy_helper.from_array(ballast, "ballast"))
    onnx.save(model, path)


class Device:
    """One device: its folder, and the processes that run over it.

    Args:
        folder: of everything that it keeps.
        root: the repository's first root metadata.
        repository: address of the web server.
        port: of the broker.
        cache: where engines are; a common one saves building them again.
    """

    def __init__(
        self, folder: Path, root: bytes, repository: str, port: int, cache: Path | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.root, self.sockets = folder, folder / "state/update", folder / "run"
        self.sockets.mkdir(exist_ok=True)
        (folder / "pipelines.d").mkdir(exist_ok=True)
        (folder / "root.json").write_bytes(root)
        (folder / "agent.yaml").write_text(
            f"device: {DEVICE}\nbroker: {{host: 127.0.0.1, port: {port}, spread_s: 0}}\n"
            "publish: {health_s: 1, result_hz: 1}\noutbox: {store: memory}\n"
            f"update: {{root: root.json, repository: '{repository}', trust_clock: true}}\n"
        )
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "EDGETRT_STATE": str(folder / "state"),
            "XDG_CACHE_HOME": str(cache or folder / "cache"),
            "RUNTIME_DIRECTORY": str(self.sockets),
        }
        (folder / "state").mkdir(exist_ok=True)

    def pipeline(self, seed: int = 0) -> None:
        """Give it a pipeline of its own, so that something runs before the first release."""
        releases.write(self.folder / "own", seed)
        shutil.copy(self.folder / "own/tiny.onnx", self.folder / "pipelines.d/tiny.onnx")
        (self.folder / "pipelines.d/tiny.yaml").write_text(PIPELINE)

    def start(self, what: str, **more: str) -> subprocess.Popen[bytes]:
        """Start the agent or the runtime, with more in its environment."""
        log = (self.folder / f"{what}.log").open("ab")
        with log:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "edgetrt",
                    what,
                    "--config",
                    str(self.folder / "agent.yaml"),
                ],
                env={**self.environment, **more},
                stdout=log,
                stderr=log,
            )

    @contextmanager
    def running(self, *what: str) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
        """Processes that are ended at the end."""
        started = {one: self.start(one) for one in what}
        try:
            yield started
        finally:
            for process in started.values():
                end(process)

    def memory(self) -> Memory:
        """The state of updates, as it is on the disk."""
        return FileStore(self.root).load()

    def serving(self) -> str:
        """Digest of the release that serves; empty when none does."""
        with contextlib.suppress(OSError):
            return (self.root / "current").readlink().name
        return ""

    def told(self) -> str:
        """What its processes said, for a test that fails."""
        logs = [f"{path.name}:\n{path.read_text()}" for path in self.folder.glob("*.log")]
        return "\n".join([*logs, str(self.memory().record)])

    def ended(self, code: str, digest: str = "", within_s: float = 240.0) -> Memory:
        """Wait until the last update has ended, and in this way."""

        def over() -> bool:
            record = self.memory().record
            if record is None or record.code is None or (digest and record.digest != digest):
                return False
            assert record.code.value == code, self.told()
            return True

        until(over, within_s, self.told)
        return self.memory()


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, then insist."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def until(met: Callable[[], bool], within_s: float, told: Callable[[], str]) -> None:
    """Wait for something."""
    deadline = time.monotonic() + within_s
    while not met():
        assert time.monotonic() < deadline, told()
        time.sleep(0.05)


def reports(observer: Observer) -> list[wire.UpdateReport]:
    """What the device said of its updates, in order."""
    found = [wire.decode(wire.ReportedMessage, body).update for body in observer.on(REPORTED)]
    return [update for update in found if update is not None]


def publish(observer: Observer, envelope: bytes) -> None:
    """Publish a `desired`, retained, as the controller does."""
    sent = observer.client.publish(wire.desired(DEVICE), envelope, qos=1, retain=True)
    sent.wait_for_publish(20)
