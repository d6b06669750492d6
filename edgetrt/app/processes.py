"""The two processes, from their files to their end."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgetrt import document
from edgetrt.app.networks import active, open_deployed
from edgetrt.app.pipelines import supervisor
from edgetrt.app.places import AGENT_SOCKET, RUNTIME_SOCKET, state_dir
from edgetrt.clock import SystemClock
from edgetrt.config import CREDENTIAL, BrokerConfig, DeviceConfig, PipelineConfig
from edgetrt.errors import ConfigError

if TYPE_CHECKING:
    from edgetrt.agent.verdict import Demand
    from edgetrt.runtime.network import Network
    from edgetrt.runtime.supervisor import Supervisor


def pipeline_files(device: DeviceConfig, base: Path) -> list[Path]:
    """Every pipeline file that a device config names, folders in order of name.

    Raises:
        ConfigError: a named file or folder is not there.
    """
    found: list[Path] = []
    for entry in device.pipelines:
        path = document.beside(base, entry)
        if not path.exists():
            raise ConfigError(
                f"{base}: pipelines: {path} does not exist", "Make it, or fix the path."
            )
        found += sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    return found


def pipelines(device: DeviceConfig, base: Path) -> dict[str, tuple[PipelineConfig, Path]]:
    """Every pipeline by name with the folder of its relative paths: those of the files, then the deployed.

    Raises:
        ConfigError: a file is wrong, or two have the same name.
    """
    found: dict[str, tuple[PipelineConfig, Path]] = {}
    for path in pipeline_files(device, base):
        pipeline = document.load(path, PipelineConfig)
        if pipeline.name in found:
            raise ConfigError(
                f"{path}: name: another pipeline is called {pipeline.name!r}",
                "Give each pipeline a name of its own.",
            )
        found[pipeline.name] = (pipeline, path.parent)
    for record in active().all():
        if record.pipeline.source:
            found.setdefault(record.pipeline.name, (record.pipeline, Path("/")))
    return found


def reopen(name: str) -> Network:
    """Load what is deployed for a pipeline now.

    Raises:
        ConfigError: nothing is.
    """
    record = active().get(name)
    if record is None:
        raise ConfigError(f"pipeline {name!r}: nothing was deployed under that name")
    return open_deployed(record)


def run_runtime(device: DeviceConfig, base: Path, sockets: Path, frames: int | None = None) -> bool:
    """Be the runtime process until its pipelines are over or a signal ends it; False if one failed."""
    from edgetrt.link import Receiver, Sender
    from edgetrt.runtime.service import Service
    from edgetrt.sinks.link import LinkSink
    from edgetrt.systemd import Notifier, Progress

    stop, clock, systemd = stop_on_signals(), SystemClock(), Notifier()
    supervisors: dict[str, Supervisor] = {}
    rates_hz: dict[str, float] = {}
    with Sender(sockets / AGENT_SOCKET) as sender, Receiver(sockets / RUNTIME_SOCKET) as inbox:
        for pipeline, folder in pipelines(device, base).values():
            supervisors[pipeline.name] = supervisor(
                pipeline, folder, sinks=lambda: [LinkSink(sender)]
            )
            if pipeline.rate_hz:
                rates_hz[pipeline.name] = pipeline.rate_hz
        progress = Progress(systemd, clock, rates_hz)
        service = Service(supervisors, sender.send, inbox, reopen, clock, frames, progress)
        try:
            return service.run(stop)
        finally:
            systemd.stopping()


def run_agent(device: DeviceConfig, base: Path, sockets: Path) -> int:
    """Be the agent process until a signal ends it; returns the exit code."""
    from functools import partial

    from edgetrt.agent import process
    from edgetrt.mqtt import MqttTransport

    broker = _beside(device.broker, base)
    connect = partial(MqttTransport, broker)
    return process.run_agent(
        device, sockets / AGENT_SOCKET, connect, state_dir(), _demands(device, base)
    )


def _demands(device: DeviceConfig, base: Path) -> dict[str, Demand]:
    """What is configured, for the agent to judge by; a mistake in a file is the runtime's to tell."""
    from edgetrt.agent.verdict import Demand

    try:
        engines = {record.pipeline.name: record.current.fingerprint for record in active().all()}
        found = pipelines(device, base)
    except ConfigError:
        return {}
    return {
        name: Demand(pipeline.rate_hz, engines.get(name, ""))
        for name, (pipeline, _) in found.items()
    }


def _beside(broker: BrokerConfig, base: Path) -> BrokerConfig:
    """Resolve the broker's files, which are relative to the config file."""
    files = ("password_file", "ca_file", "cert_file", "key_file")
    written = {name: getattr(broker, name) for name in files}
    found = {
        name: str(document.beside(base, path))
        for name, path in written.items()
        if path and not path.startswith(CREDENTIAL)
    }
    return msgspec.structs.replace(broker, **found)


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set; a second SIGINT ends the process at once."""
    stop = threading.Event()

    def asked(number: int, _: object) -> None:
        stop.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)
    return stop
