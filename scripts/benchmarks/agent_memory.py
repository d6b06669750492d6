"""How much memory the control process holds: without updates, with them, while one runs, and after it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from edgetrt import wire
from edgetrt.config import BrokerConfig
from edgetrt.demo import update_site
from edgetrt.demo.broker import Broker
from edgetrt.demo.update import START_S, UPDATE_S, watching
from edgetrt.demo.update_device import DEVICE, Device
from edgetrt.demo.update_site import Recipe, Site
from edgetrt.demo.update_witness import Witness
from edgetrt.errors import TransportError
from edgetrt.mqtt import MqttTransport
from scripts.benchmarks.figures import Figure

GOAL_MB = 60.0
SETTLES_S = 4.0
_TRUST = b"edgetrt.agent.trust_worker"


def figures() -> list[Figure]:
    """Measure; without mosquitto there is nothing to connect to."""
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.chmod(0o755)  # mosquitto, started by root, reads its file as its own user
            (folder / "broker").mkdir()
            with Broker(folder / "broker") as broker:
                where = BrokerConfig(port=broker.port, spread_s=0)
                plain = Figure(
                    "agent_rss_mb",
                    _plain_mb(folder, broker),
                    "MB",
                    GOAL_MB,
                    note="resident, connected to a broker, no updates",
                )
                return [plain, *asyncio.run(_updated(folder, where))]
    except TransportError as error:
        return [Figure("agent_rss_mb", None, "MB", GOAL_MB, note=error.message)]


def _plain_mb(folder: Path, broker: Broker) -> float:
    home = folder / "plain"
    (home / "pipelines.d").mkdir(parents=True)
    told = {"device": "bench", "broker": {"host": "127.0.0.1", "port": broker.port}}
    (home / "agent.yaml").write_text(json.dumps(told))
    command = [sys.executable, "-m", "edgetrt", "agent", "--config", home / "agent.yaml"]
    with subprocess.Popen(
        [*command, "--run-dir", home], env={**os.environ, "EDGETRT_STATE": str(home)}
    ) as agent:
        try:
            time.sleep(SETTLES_S)
            if agent.poll() is not None:
                raise TransportError(f"the agent ended with {agent.returncode}")
            return resident_mb(agent.pid)
        finally:
            agent.terminate()


async def _updated(folder: Path, broker: BrokerConfig) -> list[Figure]:
    """A device with a runtime: before its first update, while that runs, and after it."""
    site, home = Site(folder), folder / "device"
    home.mkdir()
    with update_site.serving(site.public) as address:
        device = Device(home, broker, site.root, address)
        _keep_on_disk(home / "agent.yaml")
        async with watching(broker, device) as (witness, transport):
            try:
                device.start()
                await witness.until(lambda: bool(witness.results), START_S, "the first result")
                return await _measured(site, device.pid("agent"), witness, transport)
            finally:
                await asyncio.to_thread(device.close)


async def _measured(
    site: Site, pid: int, witness: Witness, transport: MqttTransport
) -> list[Figure]:
    await asyncio.sleep(SETTLES_S)
    idle_mb, agent_mb, trust_mb = resident_mb(pid), 0.0, 0.0
    target = site.release(Recipe("1.0", seed=1))

    def look() -> bool:
        nonlocal agent_mb, trust_mb
        agent_mb = max(agent_mb, resident_mb(pid))
        trust_mb = max([trust_mb, *(resident_mb(child) for child in _children(pid, _TRUST))])
        return bool(witness.report.code)

    await transport.publish(wire.desired(DEVICE), site.assign(DEVICE, target, 1), retain=True)
    await witness.until(look, UPDATE_S, "the end of the update")
    await asyncio.sleep(SETTLES_S)
    look()
    note = f"after one, which ended {witness.report.code}"
    return [
        Figure("agent_updates_mb", idle_mb, "MB", GOAL_MB, note="with updates, before the first"),
        Figure("agent_updating_mb", agent_mb, "MB", GOAL_MB, note="the most while one runs"),
        Figure("agent_updated_mb", resident_mb(pid), "MB", GOAL_MB, note=note),
        Figure("trust_mb", trust_mb, "MB", note="the process that verifies, while it lives"),
    ]


def _keep_on_disk(config: Path) -> None:
    """What waits for the broker is kept on the disk, as on a device."""
    told = json.loads(config.read_text())
    del told["outbox"]
    config.write_text(json.dumps(told))


def _children(pid: int, command: bytes) -> Iterator[int]:
    """Processes that one has started with a command."""
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, listed.read_text(encoding="ascii").split()):
                if command in Path(f"/proc/{child}/cmdline").read_bytes():
                    yield child


def resident_mb(pid: int) -> float:
    """Memory of a process that is in RAM now, in 10^6 bytes; nothing when it is gone."""
    with contextlib.suppress(OSError):
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return 0.0
