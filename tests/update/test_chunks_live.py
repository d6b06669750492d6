"""Releases through the broker on a whole device: the agent fetches, and goes on telling meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")
pytest.importorskip("onnxruntime")

from edgetrt import wire
from tests import broker, releases
from tests.broker import Observer
from tests.update import live
from tests.update.live import ROOT, Device, Press

pytestmark = [pytest.mark.broker, pytest.mark.system, pytest.mark.timeout(600)]

WEIGHT = 12 << 20
"""Bytes that the release has besides, so that it is on its way for a while."""


@contextmanager
def serving(port: int, tree: Path, mbit: float) -> Iterator[subprocess.Popen[bytes]]:
    options = ["--broker", f"127.0.0.1:{port}", "--device-mbit", str(mbit)]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgetrt", "release", "serve", str(tree), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        live.end(process)
        assert process.returncode in (0, -9), process.returncode


def heavy(press: Press, folder: Path) -> tuple[str, str]:
    """A release with something in it besides its network; its target and digest."""
    path = releases.write(folder, 1, bands=live.BANDS, source="synthetic:64x64?rate_hz=20")
    (folder / "weights.bin").write_bytes(os.urandom(WEIGHT))
    path.write_text(path.read_text() + "files: [weights.bin]\n")
    target = press.site.repository.add(path)
    press.site.publish()
    found = press.site.repository.load("targets").signed.targets[target]
    return target, str(found.hashes["sha256"])


def offsets(observer: Observer) -> list[int]:
    """Where in the release the device asked for something, in order."""
    found = [wire.decode(wire.FetchMessage, body) for body in observer.on(wire.fetch("cam-1"))]
    return [wanted.offset for wanted in found if wanted.path.endswith(".tar")]


def test_a_device_without_http_takes_a_release(tmp_path: Path) -> None:
    press = Press(tmp_path)
    with broker.running(tmp_path) as site, broker.observing(site.port) as observer:
        device = Device(tmp_path / "device", press.site.repository.first_root(), "mqtt", site.port)
        device.pipeline(seed=9)
        with device.running("agent", "runtime"):
            observer.wait_for(wire.result("cam-1", "tiny"), 3)
            target, digest = heavy(press, tmp_path / "heavy")
            with serving(site.port, press.public, 24) as process:
                live.publish(observer, press.assign(target, 1))
                live.until(lambda: len(offsets(observer)) > 40, 120, device.told)
                process.kill()
            before = max(offsets(observer))
            told = len(observer.on(wire.health("cam-1")))
            observer.wait_for(wire.health("cam-1"), told + 2)
            observer.messages.clear()
            with serving(site.port, press.public, 24):
                device.ended("SUCCEEDED", digest)
    assert device.serving() == digest
    asked = offsets(observer)
    assert 0 < min(asked) <= before + 65536
    assert len(asked) < WEIGHT // 65536
