"""Bad releases on the real agent and runtime: how each ends, and in which words."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

import onnx

from edgetrt import wire
from edgetrt.config import BrokerConfig
from edgetrt.demo.broker import Broker
from edgetrt.demo.update import watching
from edgetrt.demo.update_device import DEVICE, Device
from edgetrt.demo.update_site import Recipe, Site, serving
from tests.broker import MOSQUITTO

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(900),
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]

WITHIN_S = 200.0
Change = Callable[[Path], None]


def release_says(**words: Any) -> Change:
    """Another word in release.yaml."""

    def change(folder: Path) -> None:
        path = folder / "release.yaml"
        path.write_text(json.dumps({**json.loads(path.read_text()), **words}))

    return change


def bands_say(**words: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "release.yaml"
        release = json.loads(path.read_text())
        release["pipelines"][0]["bands"].update(words)
        path.write_text(json.dumps(release))

    return change


def network_has(node: str = "", op: str = "") -> Change:
    """Another name, or another operator, in the first node of the network."""

    def change(folder: Path) -> None:
        model = onnx.load(folder / "street.onnx")
        model.graph.node[0].name = node or model.graph.node[0].name
        model.graph.node[0].op_type = op or model.graph.node[0].op_type
        onnx.save(model, folder / "street.onnx")

    return change


def network_is_cut(folder: Path) -> None:
    path = folder / "street.onnx"
    path.write_bytes(path.read_bytes()[:-700])


@dataclass(frozen=True)
class Bad:
    """What is wrong, how it must end, and what a person must read."""

    name: str
    change: Change
    code: str
    reason: str
    words: str
    prove_s: float = 2.0


BAD = (
    Bad(
        "other-board",
        release_says(needs={"boards": ["orin-nx-16gb"]}),
        "REJECTED",
        "incompatible",
        "orin-nx-16gb",
    ),
    Bad(
        "newer-tensorrt",
        release_says(needs={"tensorrt_min": "99.1"}),
        "REJECTED",
        "incompatible",
        "TensorRT",
    ),
    Bad("newer-l4t", release_says(needs={"l4t_min": "99.0"}), "REJECTED", "incompatible", "99.0"),
    Bad(
        "more-memory",
        release_says(needs={"memory_mb": 9_000_000}),
        "REJECTED",
        "incompatible",
        "memory",
    ),
    Bad("operator", network_has(op="NoSuchOperator"), "REJECTED", "", "NoSuchOperator"),
    Bad("damaged", network_is_cut, "REJECTED", "", "street.onnx"),
    Bad("memory-band", bands_say(memory_mb_max=5), "REJECTED", "memory", "<= 5 MB"),
    Bad(
        "crashes",
        network_has(node="crashes"),
        "ROLLED_BACK",
        "prove",
        "ended and was started again",
        20.0,
    ),
    Bad("leaks", network_has(node="leaks"), "ROLLED_BACK", "prove", "memory growth", 25.0),
)


class Watched(Device):
    """A device whose runtime is started again when it dies, as systemd does."""

    def ended(self) -> str:
        if self.runs("agent") and not self.runs("runtime"):
            self.start("runtime")
        return super().ended()


async def try_all(folder: Path, broker: BrokerConfig) -> dict[str, wire.UpdateReport]:
    """Assign a good release, then each bad one; returns the device's last word on each."""
    site = Site(folder)
    home = folder / "device"
    home.mkdir()
    found: dict[str, wire.UpdateReport] = {}
    ailing = (sys.executable, "-m", "tests.update.ailing_runtime")
    with serving(site.public) as address:
        device = Watched(home, broker, site.root, address, {"runtime": ailing})
        async with watching(broker, device) as (witness, transport):
            try:
                device.start()
                await witness.until(lambda: bool(witness.results), WITHIN_S, "the first result")
                good = Bad("good", lambda _: None, "SUCCEEDED", "", "")
                for generation, bad in enumerate((good, *BAD), 1):
                    recipe = Recipe(bad.name, generation, prove_s=bad.prove_s, fps_min=2.0)
                    target = site.release(recipe, bad.change)
                    envelope = site.assign(DEVICE, target, generation)
                    await transport.publish(wire.desired(DEVICE), envelope, retain=True)

                    def over(generation: int = generation) -> bool:
                        now = witness.report
                        return now.generation == generation and bool(now.code)

                    await witness.until(over, WITHIN_S, bad.name)
                    found[bad.name] = witness.report
                    await witness.more(len(witness.results), WITHIN_S, "results afterwards")
            finally:
                await asyncio.to_thread(device.close)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, wire.UpdateReport]]:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "broker").mkdir()
    with Broker(folder / "broker") as broker:
        yield asyncio.run(try_all(folder, BrokerConfig(port=broker.port, spread_s=0)))


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_release_ends_with_a_reason_and_the_good_one_serves(
    found: dict[str, wire.UpdateReport], bad: Bad
) -> None:
    report, good = found[bad.name], found["good"]
    told = " ".join(
        [report.detail, *(f"{c.name} {c.value} {c.limit}" for c in report.checks if not c.ok)]
    )
    print(f"{bad.name}: {report.code} {report.reason}: {told} | {report.hint}")

    assert good.code == "SUCCEEDED", good
    assert report.code == bad.code, report
    assert report.reason == bad.reason or not bad.reason
    assert report.reason
    assert bad.words in told
    assert report.hint
    assert report.serving == good.serving
    assert "Traceback" not in told
