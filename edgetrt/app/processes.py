"""The two processes, from their files to their end."""

from __future__ import annotations

import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgetrt import document, wire
from edgetrt.app.networks import open_deployed
from edgetrt.app.pipelines import open_configured, parts_named, supervisor
from edgetrt.app.places import AGENT_SOCKET, RUNTIME_SOCKET, state_dir
from edgetrt.app.serving import Serving, wanted
from edgetrt.clock import SystemClock
from edgetrt.config import CREDENTIAL, BrokerConfig, DeviceConfig, PipelineConfig
from edgetrt.engine.active import Record
from edgetrt.errors import ConfigError, UpdateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgetrt.agent.verdict import Demand
    from edgetrt.ports import Sink
    from edgetrt.runtime.network import Network
    from edgetrt.runtime.running import Job


def run_runtime(device: DeviceConfig, base: Path, sockets: Path, frames: int | None = None) -> bool:
    """Be the runtime process until its pipelines are over or a signal ends it; False if one failed."""
    from edgetrt.link import Receiver, Sender
    from edgetrt.runtime.pool import PipelinePool
    from edgetrt.runtime.requests import Means, Requests
    from edgetrt.runtime.service import Service
    from edgetrt.sinks.link import LinkSink
    from edgetrt.sinks.snapshot import jpeg
    from edgetrt.systemd import Notifier, Progress

    stop, clock, systemd = stop_on_signals(), SystemClock(), Notifier()
    with Sender(sockets / AGENT_SOCKET) as sender, Receiver(sockets / RUNTIME_SOCKET) as inbox:

        def jobs() -> dict[str, Job]:
            found = wanted(device, base)
            return {name: job(one, lambda: [LinkSink(sender)]) for name, one in found.items()}

        progress, pool = Progress(systemd, clock), PipelinePool(frames)
        service = Service(pool, jobs, sender.send, inbox, clock, progress)
        means = Means(sockets, jpeg, partial(_bench, base), lambda name: pool.apply(jobs, name))
        requests = Requests(pool, service.answer, means)
        service.handle(wire.SettingsMessage, requests.settle)
        service.handle(wire.AskMessage, requests.ask)
        try:
            return service.run(stop)
        finally:
            systemd.stopping()


def _bench(config: Path, pipeline: str, seconds: float) -> list[str]:
    """The command that measures the engine a pipeline of this device serves with."""
    asked = ["bench", pipeline, "--config", str(config), "--seconds", str(seconds), "--json"]
    return [sys.executable, "-m", "edgetrt", *asked]


def job(serving: Serving, sinks: Callable[[], Sequence[Sink]] = tuple) -> Job:
    """One pipeline for the runtime: what names its network and its other parts, and what opens them.

    Args:
        serving: the pipeline.
        sinks: makes those that come besides its own.
    """
    from edgetrt.runtime.running import Job

    pipeline, base, engine = serving.pipeline, serving.base, serving.engine

    def load() -> Network:
        if engine is None:
            return open_configured(pipeline, base)
        return open_deployed(Record(pipeline=pipeline, current=engine))

    named = (pipeline.model, base, pipeline.backend, pipeline.threads)
    own = (*named, pipeline.task, pipeline.preprocess)
    served = msgspec.structs.replace(engine, deployed_at="", model="") if engine else own
    return Job(
        name=pipeline.name,
        network=(served, pipeline.depth),
        parts=_parts(pipeline, base),
        load=load,
        make_supervisor=lambda network: supervisor(
            pipeline, base, sinks=sinks, network=network, file=serving.file
        ),
        rate_hz=pipeline.rate_hz,
    )


def _parts(pipeline: PipelineConfig, base: Path) -> object:
    """What names source and sinks; a mistake stands for itself, and is told when they are opened."""
    try:
        return parts_named(pipeline, base)
    except ConfigError:
        return pipeline.source, pipeline.sinks, base


def run_agent(device: DeviceConfig, base: Path, sockets: Path, complaint: str = "") -> int:
    """Be the agent process until a signal ends it; returns the exit code.

    `complaint`: what is wrong with the config file, when `device` is the last good one.
    """
    from edgetrt.agent import process
    from edgetrt.agent.identity import identify
    from edgetrt.app.updates import open_updating
    from edgetrt.boards.sensors import Sensors
    from edgetrt.mqtt import MqttTransport

    broker, name, board = broker_of(device, base), identify(device, 0).device, Sensors().read
    connect = partial(MqttTransport, broker)
    look = partial(demands, device, base)
    updating = open_updating(device, base, name, sockets, board, look)
    reason = wire.Reason(state="degraded", code="config", about=base.name, text=complaint)
    return process.run_agent(
        device,
        sockets / AGENT_SOCKET,
        connect,
        state_dir(),
        look(),
        board,
        updating,
        base,
        (reason,) if complaint else (),
    )


def demands(device: DeviceConfig, base: Path) -> dict[str, Demand]:
    """What is to run now, for the agent to judge by; a mistake in a file is the runtime's to tell."""
    from edgetrt.agent.verdict import Demand

    try:
        found = wanted(device, base)
    except (ConfigError, UpdateError):
        return {}
    return {
        name: Demand(one.pipeline.rate_hz, one.engine.fingerprint if one.engine else "")
        for name, one in found.items()
    }


def broker_of(device: DeviceConfig, base: Path) -> BrokerConfig:
    """The device's broker, its files resolved, which are relative to the config file."""
    files = ("password_file", "ca_file", "cert_file", "key_file")
    written = {name: getattr(device.broker, name) for name in files}
    found = {
        name: str(document.beside(base, path))
        for name, path in written.items()
        if path and not path.startswith(CREDENTIAL)
    }
    return msgspec.structs.replace(device.broker, **found)


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
