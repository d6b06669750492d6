"""Updates on a whole device: an operator publishes, and a release is proven or taken back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")
pytest.importorskip("onnxruntime")

from edgetrt import wire
from tests import broker
from tests.broker import Observer
from tests.update import live
from tests.update.device import serving
from tests.update.live import Device, Press

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]


@dataclass
class Scene:
    """A site, a broker with someone who watches, and a device over which agent and runtime run."""

    press: Press
    observer: Observer
    device: Device

    def states(self) -> list[str]:
        """States and codes that the device told of, each once in a row."""
        told = [report.code or report.state for report in live.reports(self.observer)]
        return [at for n, at in enumerate(told) if at and (n == 0 or told[n - 1] != at)]


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    press = Press(folder)
    with (
        broker.running(folder) as site,
        broker.observing(site.port) as observer,
        serving(press.public) as (address, _),
    ):
        device = Device(folder / "device", press.site.repository.first_root(), address, site.port)
        device.pipeline(seed=9)
        with device.running("agent", "runtime"):
            observer.wait_for(wire.result("cam-1", "tiny"), 2)
            yield Scene(press, observer, device)


def test_a_good_release_is_proven_and_a_worse_one_taken_back(tmp_path: Path) -> None:
    with scene(tmp_path) as site:
        press, device = site.press, site.device
        good = press.release(1)
        live.publish(site.observer, press.assign(good, 1))
        memory = device.ended("SUCCEEDED", press.digests[good])
        assert device.serving() == press.digests[good]
        assert memory.record is not None
        assert memory.record.verdict is not None
        print(memory.record.verdict)

        worse = press.release(2, bands="{fps_min: 10, p99_ms_max: 0.001, prove_s: 1}")
        live.publish(site.observer, press.assign(worse, 2))
        memory = device.ended("ROLLED_BACK", press.digests[worse])
        assert device.serving() == press.digests[good]
        assert memory.record is not None
        print(memory.record)
        print(site.states())
        assert memory.record.reason == "prove"
