"""Updates on a whole device: an operator publishes, and a release is proven or taken back."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")
pytest.importorskip("onnxruntime")

from edgetrt import wire
from edgetrt.update.record import Memory
from tests import broker
from tests.broker import Observer
from tests.update import live
from tests.update.device import serving
from tests.update.live import Device, Press

pytestmark = [pytest.mark.broker, pytest.mark.system, pytest.mark.timeout(600)]


@dataclass
class Scene:
    """A site, a broker with someone who watches, and a device over which agent and runtime run."""

    press: Press
    observer: Observer
    device: Device
    runtime: subprocess.Popen[bytes]

    def rate_hz(self) -> object:
        """What the runtime says that the pipeline is asked for."""
        bodies = self.observer.on(wire.health("cam-1"))
        pipelines = wire.decode(wire.HealthMessage, bodies[-1]).pipelines if bodies else ()
        return next((one.settings.get("rate_hz") for one in pipelines), None)

    def told(self) -> list[tuple[float, str]]:
        """Time and text of the events about updates."""
        bodies = self.observer.on(live.EVENT)
        found = [wire.decode(wire.EventMessage, body) for body in bodies]
        return [(one.time, one.text) for one in found if one.event == "update"]

    def events(self) -> list[str]:
        """What was told of updates, in order."""
        return [text for _, text in self.told()]

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
        with device.running("agent", "runtime") as processes:
            observer.wait_for(wire.result("cam-1", "tiny"), 3)
            yield Scene(press, observer, device, processes["runtime"])


def test_a_release_that_was_here_before_serves_soon(tmp_path: Path) -> None:
    with scene(tmp_path) as site:
        press, device = site.press, site.device
        both = [press.release(1), press.release(2)]
        for generation in (1, 2, 3):
            target = both[generation % 2]
            live.publish(site.observer, press.assign(target, generation))
            device.ended("SUCCEEDED", press.digests[target])
        live.until(lambda: site.events().count("SUCCEEDED") == 3, 30, device.told)
        at = [time_s for time_s, text in site.told() if text in ("VERIFY", "PROVE")]
        print(f"from desired to serving, engines cached: {at[5] - at[4]:.2f} s")
        assert site.events().count("PROVE") == 3


def wrong(memory: Memory) -> list[str]:
    """The checks that did not hold, as a person reads them."""
    assert memory.record is not None
    assert memory.record.verdict is not None
    checks = memory.record.verdict.checks
    return [f"{one.name}: {one.value}, limit {one.limit}" for one in checks if not one.ok]


def test_a_good_release_is_proven_and_a_slow_one_taken_back(tmp_path: Path) -> None:
    with scene(tmp_path) as site:
        press, device = site.press, site.device
        good, slow = press.release(1), press.release(2, slow=5)
        site.observer.wait_for(wire.result("cam-1", "tiny"), 8)  # one a second: how it ran is known
        live.publish(site.observer, press.assign(good, 1))
        memory = device.ended("SUCCEEDED", press.digests[good])
        assert device.serving() == press.digests[good]
        assert wrong(memory) == []
        assert memory.record is not None
        assert memory.record.before["tiny"].fps > 10

        live.publish(site.observer, press.assign(slow, 2))
        memory = device.ended("ROLLED_BACK", press.digests[slow])
        assert device.serving() == press.digests[good]
        found = wrong(memory)  # which it is depends on the machine
        assert any(one.startswith(("tiny: fps", "tiny: p99")) for one in found), found
        assert memory.record is not None
        assert memory.record.reason == "prove"
        live.until(lambda: site.states()[-1] == "ROLLED_BACK", 20, device.told)
        last = live.reports(site.observer)[-1]
        assert (last.serving, last.generation) == (press.digests[good], 2)
        assert [check.name for check in last.checks if not check.ok]


def test_one_that_kills_the_runtime_is_taken_back_with_a_reason(tmp_path: Path) -> None:
    with scene(tmp_path) as site:
        press, device = site.press, site.device
        target = press.release(1, bands=live.BANDS.replace("prove_s: 1", "prove_s: 20"))
        live.publish(site.observer, press.assign(target, 1))
        live.until(lambda: site.states()[-1:] == ["PROVE"], 240, device.told)
        site.runtime.send_signal(signal.SIGSEGV)
        site.runtime.wait()
        with device.running("runtime"):
            memory = device.ended("ROLLED_BACK", press.digests[target])

        assert device.serving() == ""
        assert wrong(memory) == [
            "tiny: runtime: ended and was started again once, limit runs through"
        ]


def test_wrong_answers_and_a_network_that_is_none_are_rejected(tmp_path: Path) -> None:
    with scene(tmp_path) as site:
        press, device = site.press, site.device
        lies = press.release(1, wrong=5.0)
        live.publish(site.observer, press.assign(lies, 1))
        memory = device.ended("REJECTED", press.digests[lies])
        assert "golden" in wrong(memory)[0]
        assert memory.record is not None
        assert memory.record.state.value == "BUILD"
        assert device.serving() == ""


def test_settings_reach_the_pipeline_and_forged_ones_do_not(tmp_path: Path) -> None:
    with scene(tmp_path) as site:
        live.publish(site.observer, site.press.settings(3, {"tiny": {"rate_hz": 5.0}}))
        live.until(lambda: site.rate_hz() == 5.0, 30, site.device.told)
        forged = site.press.settings(4, {"tiny": {"rate_hz": 1.0}}, key="targets-0")
        live.publish(site.observer, forged)
        live.until(
            lambda: live.reports(site.observer)[-1].refused == {"signature": 1},
            30,
            site.device.told,
        )
        assert site.rate_hz() == 5.0


def test_a_device_with_nothing_takes_its_first_release(tmp_path: Path) -> None:
    """Under `edgetrt up`: nothing runs until the release does, and nobody but `up` can start it."""
    press = Press(tmp_path)
    target = press.release(1)
    with (
        broker.running(tmp_path) as site,
        broker.observing(site.port) as observer,
        serving(press.public) as (address, _),
    ):
        root = press.site.repository.first_root()
        device = Device(tmp_path / "device", root, address, site.port)
        with device.running("up"):
            live.publish(observer, press.assign(target, 1))
            device.ended("SUCCEEDED", press.digests[target])
            observer.wait_for(wire.result("cam-1", "tiny"), 1)
