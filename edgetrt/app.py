"""The composition root: the only module that names concrete adapters.

Everything here opens, joins and starts; nothing decides.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgetrt import document
from edgetrt.clock import SystemClock
from edgetrt.config import BackendName, BrokerConfig, DeviceConfig, PipelineConfig
from edgetrt.errors import BackendError, ConfigError
from edgetrt.types import Grant, Shape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgetrt.engine.recipe import Recipe
    from edgetrt.ports import Backend, Sink, Source
    from edgetrt.runtime.network import Network
    from edgetrt.runtime.supervisor import Supervisor
    from edgetrt.sources.uri import SourceUri

AGENT_SOCKET, RUNTIME_SOCKET = "agent.sock", "runtime.sock"


def cache_dir() -> Path:
    """Where this user's caches are: systemd's folder for us, else the user's own."""
    systemd = os.environ.get("CACHE_DIRECTORY")
    if systemd:
        return Path(systemd.split(":")[0])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgetrt"


def run_dir() -> Path:
    """Where the local link's sockets are."""
    return Path(os.environ.get("RUNTIME_DIRECTORY", "/run/edgetrt").split(":")[0])


# --- data plane -----------------------------------------------------------------------------------


def backends() -> dict[str, Callable[[], Backend]]:
    """Every backend by name, best first; calling one raises BackendError where it is not installed."""
    from edgetrt.backends.onnxruntime import OnnxRuntimeBackend
    from edgetrt.backends.openvino import OpenVinoBackend

    return {"onnxruntime": OnnxRuntimeBackend, "openvino": OpenVinoBackend}


def pick_backend(
    name: BackendName, model: Path, digest: str, threads: int, shapes: Mapping[str, Shape] | None
) -> Backend:
    """Make the backend of that name; for `auto`, the fastest here by a short remembered trial.

    Raises:
        BackendError: it is not installed, or none is.
    """
    from edgetrt.backends.choose import available, choose

    makers = backends()
    if name == "auto":
        installed = [found.backend for found in available(makers) if found.backend is not None]
        return choose(installed, model, digest, threads, cache_dir(), shapes)
    if name not in makers:
        raise BackendError(
            f"backend {name!r}: not available on this machine",
            f"Use one of {', '.join(makers)}, or `auto`; `edgetrt doctor` says what is missing.",
        )
    return makers[name]()


def open_network(recipe: Recipe, backend: BackendName, threads: int, depth: int) -> Network:
    """Load a recipe's network with as many lanes as frames may overlap.

    Raises:
        ModelError: the file is damaged, or not what the task expects.
        BackendError: nothing here can run it.
    """
    from edgetrt.model import onnx_file
    from edgetrt.runtime.reading import Reading

    reading = Reading.of(recipe)
    digest = onnx_file.digest(recipe.model)
    chosen = pick_backend(backend, recipe.model, digest, threads, reading.shapes)
    session = chosen.load(recipe.model, threads, reading.shapes)
    return reading.network(session, digest[:16], chosen.name, depth)


def open_source(uri: SourceUri) -> Source:
    """Open a source; a live one comes with its newest-wins slot.

    Raises:
        SourceError: what the URI names cannot be read.
    """
    from edgetrt.runtime.newest import Newest
    from edgetrt.sources.images import ImageSource
    from edgetrt.sources.rtsp import RtspSource
    from edgetrt.sources.synthetic import SyntheticSource
    from edgetrt.sources.video import VideoFileSource

    kinds: dict[str, Callable[..., Source]] = {
        "file": VideoFileSource,
        "rtsp": RtspSource,
        "rtsps": RtspSource,
        "dir": ImageSource,
        "synthetic": SyntheticSource,
    }
    source = kinds[uri.scheme](uri.target, **uri.arguments())
    return Newest(source) if source.live else source


def open_sink(text: str, base: Path, *, live: bool) -> Sink:
    """Open a sink by its URI; sinks of a live source leave results out rather than wait.

    Raises:
        ConfigError: an unknown scheme.
        SinkError: it cannot be written.
    """
    from edgetrt import wire
    from edgetrt.sinks.image import ImageSink
    from edgetrt.sinks.jsonl import JsonlSink
    from edgetrt.sinks.video import VideoSink

    scheme, colon, rest = text.partition(":")
    path = base / Path(rest).expanduser()
    if colon and rest and scheme == "jsonl":
        encode = lambda result: wire.encode(wire.result_message(result))  # noqa: E731
        return JsonlSink(None if rest == "-" else path, encode)
    if colon and rest and scheme == "video":
        return VideoSink(path, block=not live)
    if colon and rest and scheme == "image":
        return ImageSink(path)
    raise ConfigError(
        f"sink {text!r}: expected jsonl:PATH, video:PATH or image:PATH",
        "Use `jsonl:-` for standard output.",
    )


def supervisor(
    pipeline: PipelineConfig,
    base: Path,
    *,
    source: SourceUri | None = None,
    sinks: Callable[[], Sequence[Sink]] = tuple,
) -> Supervisor:
    """Join everything that one pipeline needs.

    Args:
        pipeline: its settings.
        base: the folder that the settings' relative paths start from.
        source: instead of the one in the settings.
        sinks: makes those that come besides the settings' own.
    """
    from edgetrt.engine import recipe as recipes
    from edgetrt.sources import uri as uris

    recipe = recipes.for_pipeline(pipeline, base)
    uri = source or uris.parse(pipeline.source, base)
    live = uri.scheme.startswith("rtsp") or "rate_hz" in uri.options or "realtime" in uri.options
    return join(
        pipeline.name,
        lambda: open_source(uri),
        lambda: open_network(recipe, pipeline.backend, pipeline.threads, pipeline.depth),
        [*(open_sink(text, base, live=live) for text in pipeline.sinks), *sinks()],
        Grant(pipeline.rate_hz),
    )


def join(
    name: str,
    source: Callable[[], Source],
    network: Callable[[], Network],
    sinks: Sequence[Sink] = (),
    grant: Grant = Grant(),  # noqa: B008 - it is frozen
) -> Supervisor:
    """Make the supervisor of a pipeline from what opens its parts."""
    from edgetrt.runtime.meter import Meter
    from edgetrt.runtime.supervisor import Supervisor

    clock = SystemClock()
    return Supervisor(
        name=name,
        open_source=source,
        open_network=network,
        sinks=sinks,
        meter=Meter(name, clock),
        clock=clock,
        grant=grant,
    )


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


def run_runtime(device: DeviceConfig, base: Path, sockets: Path, frames: int | None = None) -> bool:
    """Be the runtime process until its pipelines are over or a signal ends it; False if one failed."""
    from edgetrt.link import Receiver, Sender
    from edgetrt.runtime.service import Service
    from edgetrt.sinks.link import LinkSink

    stop = stop_on_signals()
    supervisors: dict[str, Supervisor] = {}
    with Sender(sockets / AGENT_SOCKET) as sender, Receiver(sockets / RUNTIME_SOCKET) as inbox:
        for path in pipeline_files(device, base):
            pipeline = document.load(path, PipelineConfig)
            if pipeline.name in supervisors:
                raise ConfigError(
                    f"{path}: name: another pipeline is called {pipeline.name!r}",
                    "Give each pipeline a name of its own.",
                )
            supervisors[pipeline.name] = supervisor(
                pipeline, path.parent, sinks=lambda: [LinkSink(sender)]
            )
        return Service(supervisors, sender.send, inbox, SystemClock(), frames).run(stop)


def run_agent(device: DeviceConfig, base: Path, sockets: Path) -> int:
    """Be the agent process until a signal ends it; returns the exit code."""
    from functools import partial

    from edgetrt.agent import process
    from edgetrt.mqtt import MqttTransport

    broker = _beside(device.broker, base)
    return process.run_agent(device, sockets / AGENT_SOCKET, partial(MqttTransport, broker))


def _beside(broker: BrokerConfig, base: Path) -> BrokerConfig:
    """Resolve the broker's files, which are relative to the config file."""
    files = ("password_file", "ca_file", "cert_file", "key_file")
    written = {name: getattr(broker, name) for name in files}
    found = {name: str(document.beside(base, path)) for name, path in written.items() if path}
    return msgspec.structs.replace(broker, **found)


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
