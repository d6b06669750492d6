"""`bench` and `verify` alone: the same steps as in a deployment, on what is deployed or on a file."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgetrt import app, document
from edgetrt.boards.conditions import conditions
from edgetrt.boards.machine import device
from edgetrt.clock import SystemClock
from edgetrt.config import DeviceConfig
from edgetrt.deploy.sample_frames import SampleFrames
from edgetrt.engine import bench as engine_bench
from edgetrt.engine import recipe as recipes
from edgetrt.engine.accuracy import Scorer, answer
from edgetrt.engine.recipe import Recipe
from edgetrt.errors import ConfigError
from edgetrt.runtime.reading import Reading
from edgetrt.sources import uri as uris

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetrt.config import BackendName
    from edgetrt.engine.accuracy import Verdict
    from edgetrt.engine.active import Record
    from edgetrt.engine.bench import Figures
    from edgetrt.runtime.network import Network
    from edgetrt.types import Conditions

LOOP_DEPTH = 1
"""One lane: with two, the stages of neighbouring frames overlap and their times say less."""

PATIENCE_S = 30.0
"""How long a network may load and a source be silent before the loop is measured without them."""


@dataclass(frozen=True)
class Measured:
    """What `bench` found.

    Attributes:
        name: of the pipeline or the file.
        backend: what ran it.
        device: on what.
        conditions: power mode, clocks and temperatures, before and after.
        engine: by itself.
        stages_ms: p50 and p99 of each stage in the loop; empty without a source.
        fps: of the loop; None without a source.
    """

    name: str
    backend: str
    device: str
    engine: Figures
    conditions: tuple[Conditions, Conditions]
    stages_ms: dict[str, tuple[float, float]] = field(default_factory=dict)
    fps: float | None = None


@dataclass(frozen=True)
class Subject:
    """What is measured: how to open it, and the source it runs over."""

    name: str
    open: Callable[[], Network]
    source: str | None
    record: Record | None = None


def find(what: Path, backend: BackendName, threads: int) -> Subject:
    """A deployed pipeline by its name, or a network or recipe by its file.

    Raises:
        ConfigError: neither.
    """
    if what.suffix:
        recipe = recipes.read(what)
        return Subject(
            what.stem, lambda: app.open_network(recipe, backend, threads, LOOP_DEPTH), None
        )
    record = app.active().get(str(what))
    if record is None:
        names = ", ".join(app.active().names())
        raise ConfigError(
            f"{what}: neither a deployed pipeline nor an .onnx or .yaml file",
            f"Deployed: {names or 'nothing yet'}.",
        )
    source = record.pipeline.source or None
    return Subject(str(what), lambda: app.open_deployed(record), source, record)


def serving(name: str, config: Path) -> Subject:
    """What a pipeline of a device serves with now; by itself, since its camera is in use.

    Raises:
        ConfigError: the device has no such pipeline.
    """
    found = app.wanted(document.load(config, DeviceConfig), config)
    if name not in found:
        raise ConfigError(f"{config}: no pipeline {name!r}", f"There is: {', '.join(found)}.")
    return Subject(name, app.job(found[name]).load, None)


def bench(
    what: Path,
    source: str | None,
    seconds: float,
    backend: BackendName,
    threads: int,
    config: Path | None = None,
) -> Measured:
    """Measure the engine by itself, then the loop over a source.

    Args:
        what: a deployed pipeline or a network's file; with `config` a pipeline of that device.
        source: what the loop runs over; None = the deployed pipeline's own.
        seconds: per measurement.
        backend: of a network's file.
        threads: of the same.
        config: the device's agent.yaml.

    Raises:
        EdgetrtError: it cannot be opened or run.
    """
    subject = find(what, backend, threads) if config is None else serving(str(what), config)
    before = conditions()
    network = subject.open()
    try:
        figures = engine_bench.bench(network.lanes[0].session, seconds, SystemClock())
        name = network.backend
    finally:
        network.close()
    stages, fps = _loop(subject, source or subject.source, seconds)
    return Measured(
        subject.name, name, device().model, figures, (before, conditions()), stages, fps
    )


def _loop(
    subject: Subject, source: str | None, seconds: float
) -> tuple[dict[str, tuple[float, float]], float | None]:
    if source is None:
        return {}, None
    uri = uris.parse(source)
    stop = threading.Event()
    limit = _FromFirstResult(seconds, stop)
    supervisor = app.join(subject.name, lambda: app.open_source(uri), subject.open, [limit])
    try:
        supervisor.run_once(stop)
    finally:
        limit.close()
    health = supervisor.meter.health()
    return {name: (s.p50_ms, s.p99_ms) for name, s in health.stages.items()}, health.fps


class _FromFirstResult:
    """A sink that ends the loop some time after its first result: loading does not count.

    A source from which nothing comes is given up after `PATIENCE_S` more.
    """

    def __init__(self, seconds: float, stop: threading.Event) -> None:
        self._measured = threading.Timer(seconds, stop.set)
        self._longest = threading.Timer(seconds + PATIENCE_S, stop.set)
        self._longest.start()

    def put(self, _: object) -> bool:
        if self._measured.ident is None:
            self._measured.start()
        return True

    def close(self) -> None:
        self._measured.cancel()
        self._longest.cancel()


def _reference(subject: Subject, what: Path) -> Recipe:
    """The FP32 network that a subject is judged by, read as the subject is."""
    if subject.record is None:
        return recipes.read(what)
    serving = subject.record.current
    plain = recipes.read(Path(serving.model))
    config = msgspec.structs.replace(plain.config, task=serving.task, preprocess=serving.preprocess)
    return Recipe(plain.path, plain.model, config)


def verify(what: Path, calib: str | None, frames: int, backend: BackendName) -> Verdict:
    """Judge an engine against ONNX Runtime FP32 on frames.

    Args:
        what: a deployed pipeline or a network's file.
        calib: where the frames come from; None = the pipeline's source.
        frames: how many at most.
        backend: what runs a network's file.

    Raises:
        ConfigError: nothing to judge, or no frames to judge by.
    """
    subject = find(what, backend, 0)
    reading = Reading.of(_reference(subject, what))
    place = calib or subject.source
    if place is None:
        raise ConfigError(f"{what}: no frames to judge by", "Add --calib FOLDER or URI.")
    with tempfile.TemporaryDirectory(prefix="edgetrt-") as folder:
        footage = SampleFrames(reading, uris.parse(place), frames).spool(Path(folder))
        scorer = Scorer(reading.gate(), reading.recipe.model, footage)
        network = subject.open()
        try:
            found = [answer(network.lanes[0].session, feed) for feed in footage]
        finally:
            network.close()
        return scorer.judge(found)
