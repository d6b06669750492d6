"""`deploy` from the person's words to a running pipeline: composition, like `app`.

What a repetition does not need (the network's reader, the backends, numpy) is imported where it is used.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgetrt import app, document, footage, wire
from edgetrt.boards.machine import device
from edgetrt.config import PipelineConfig
from edgetrt.engine import orders
from edgetrt.engine import recipe as recipes
from edgetrt.engine.active import Deployed, pipeline_name
from edgetrt.engine.cache import MANIFEST, Cache, default_root
from edgetrt.engine.recipe import Recipe
from edgetrt.engine.report import Report
from edgetrt.engine.shop import BENCH_S, SEARCH_S
from edgetrt.errors import (
    BackendError,
    ConfigError,
    MessageError,
    PlacementError,
    TransportError,
)
from edgetrt.link import Receiver, Sender
from edgetrt.model import targets
from edgetrt.sources import uri as uris

if TYPE_CHECKING:
    from edgetrt.config import BackendName
    from edgetrt.engine.active import Record
    from edgetrt.engine.shop import Say, Shop
    from edgetrt.runtime.reading import Reading
    from edgetrt.sources.uri import SourceUri

SWAP_S = 60.0
"""How long a running runtime may take to load the engine and swap it in."""


@dataclass(frozen=True)
class Request:
    """What a person typed; see `edgetrt deploy --help`."""

    what: Path
    name: str | None = None
    source: str | None = None
    calib: str | None = None
    precision: str | None = None
    dla: int | None = None
    target: str | None = None
    strict: bool = False
    backend: BackendName = "auto"
    threads: int = 0
    frames: int = 100
    search_s: float = SEARCH_S
    bench_s: float = BENCH_S
    rewrite: bool = True
    dry_run: bool = False


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        cache: `hit` or `miss`.
        report: about the engine.
        state: `swapped` (a running runtime has taken it), `installed` (it is for the next start),
            `cached` (it was built and cannot run here) or `dry-run`.
        detail: more about that, in words.
        previous: fingerprint of the engine that `rollback` would bring back.
        elapsed_s: the whole command.
    """

    cache: str
    report: Report
    state: str
    detail: str = ""
    previous: str | None = None
    elapsed_s: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A request, looked up: what it is about.

    Attributes:
        name: of the pipeline.
        recipe: with the command line's word on top.
        source: what the pipeline runs over; None when nobody said.
        calib: where frames come from; None when there are none.
        target: whose DLA; None without.
        here: the target is this machine.
    """

    name: str
    recipe: Recipe
    source: SourceUri | None
    calib: SourceUri | None
    target: str | None
    here: bool


def run(request: Request, say: Say) -> Deployment:
    """Deploy what was asked for.

    Raises:
        EdgetrtError: the first thing that does not work out; what served before goes on serving.
    """
    started = time.monotonic()
    plan = _plan(request)
    cache = Cache(default_root())
    report = _make(request, plan, cache, say)
    state, detail, previous = "dry-run", "", None
    if not request.dry_run and report.latency_ms is None:
        state, detail = (
            "cached",
            "It was built and never ran, because no GPU is here: nothing was changed.",
        )
    elif not request.dry_run:
        say("activate")
        record = app.active().activate(_pipeline(plan), _deployed(request, plan, report))
        state, detail = tell_runtime(plan.name)
        previous = record.previous.fingerprint if record.previous else None
        if state == "installed" and not record.pipeline.source:
            detail = (
                f"No source yet: add --source URI, or a pipeline file named {plan.name!r} in the "
                "device's config."
            )
    return Deployment(
        cache=report.cache,
        report=report,
        state=state,
        detail=detail,
        previous=previous,
        elapsed_s=round(time.monotonic() - started, 3),
    )


def rollback(name: str) -> tuple[Record, str, str]:
    """Bring the engine before back, and tell a running runtime.

    Returns:
        The record, and what became of it as in `Deployment.state` and `.detail`.

    Raises:
        ConfigError: there is none to go back to.
    """
    record = app.active().rollback(name)
    return (record, *tell_runtime(name))


def copy_out(engine: str, folder: Path) -> None:
    """Copy an engine of the cache, its other files and its manifest, for whoever wants to look at them.

    Raises:
        EngineMismatchError: it does not verify.
        ConfigError: the folder cannot be written.
    """
    found = Cache(default_root()).open(engine)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*found.manifest.files, MANIFEST):
            shutil.copyfile(found.path.with_name(name), folder / name)
    except OSError as error:
        raise ConfigError(
            f"{folder}: the engine cannot be copied there: {error.strerror}",
            "Name a folder that can be written.",
        ) from error


def name_of(path: Path) -> str:
    """A pipeline's name from a file's."""
    stem = path.resolve().parent.name if path.stem.startswith("recipe") else path.stem
    return re.sub(r"[^a-z0-9-]+", "-", stem.lower()).strip("-")[:63] or "pipeline"


def tell_runtime(name: str) -> tuple[str, str]:
    """Let a running runtime swap the engine in; it is for the next start where none runs."""
    sockets = app.run_dir()
    asleep = "installed", "No runtime runs here now; the next start takes it."
    if not (sockets / app.RUNTIME_SOCKET).exists():
        return asleep
    asker = f"deploy-{os.getpid()}.sock"
    message = wire.ActivateMessage(pipeline=name, reply=asker)
    try:
        with Receiver(sockets / asker) as inbox, Sender(sockets / app.RUNTIME_SOCKET) as runtime:
            if not runtime.send(wire.encode(message)):
                return asleep
            answer = inbox.receive(SWAP_S)
    except TransportError as error:
        return (
            "installed",
            f"The runtime cannot be asked: {error.message}. Its next start takes it.",
        )
    if answer is None:
        return "installed", f"The runtime did not answer within {SWAP_S:.0f} s; see its log."
    try:
        told = wire.decode_link(answer)
    except MessageError as error:
        return "installed", error.message
    if not isinstance(told, wire.ActivatedMessage) or told.error:
        return "installed", getattr(told, "error", "the runtime answered something else")
    return "swapped", "The running pipeline took it between two frames."


def _plan(request: Request) -> Plan:
    found = recipes.read(request.what)
    values = {"precision": request.precision, "dla": request.dla}
    asked = {key: value for key, value in values.items() if value is not None}
    if request.strict:
        asked["strict"] = True
    recipe = Recipe(found.path, found.model, document.override(found.config, asked))
    name = pipeline_name(request.name or name_of(request.what))
    source = _source(request, name)
    calib = uris.parse(request.calib) if request.calib is not None else source
    return Plan(name, recipe, source, calib, *_target(request, recipe))


def _source(request: Request, name: str) -> SourceUri | None:
    """The source asked for, else the one that the pipeline of that name runs over now."""
    if request.source is not None:
        return uris.parse(request.source)
    known = app.active().get(name)
    return uris.parse(known.pipeline.source) if known and known.pipeline.source else None


def _target(request: Request, recipe: Recipe) -> tuple[str | None, bool]:
    """The board whose DLA is meant (the one named, else this one), and whether it is this one.

    Raises:
        ConfigError: a board that is not known, or one without --dla.
        PlacementError: none was named, and this machine has no DLA.
    """
    if request.target is not None:
        targets.find_target(request.target)
    if recipe.config.dla is None:
        if request.target is not None:
            raise ConfigError(
                f"--target {request.target}: it is the board whose DLA is meant", "Add --dla."
            )
        return None, True
    machine = device()
    here = targets.target_of(machine.part_number)
    if request.target is not None:
        return request.target, request.target == here
    if here is None:
        raise PlacementError(
            f"--dla: this machine ({machine.model}) has no DLA",
            "Name the board the engine is for, to see its placement: --target orin-nx-16gb. "
            f"Boards: {', '.join(targets.boards().targets)}.",
        )
    return here, True


def _make(request: Request, plan: Plan, cache: Cache, say: Say) -> Report:
    """Find the engine that the same words led to before, or go the whole way."""
    words = _words(request, plan)
    known, spoilt = orders.recall(cache, words, plan.recipe.model) if words else (None, "")
    if known is not None:
        return known.asked_as(plan.name, plan.recipe.model)
    from edgetrt.engine.deploy import deploy
    from edgetrt.engine.fitting import Order
    from edgetrt.model import onnx_file
    from edgetrt.runtime.reading import Reading

    model = plan.recipe.model
    reading = Reading.of(plan.recipe)
    shop = _shop(request, plan, reading)
    own = plan.here and plan.target is not None and shop.toolchain.flavour == "tensorrt"
    order = Order(
        name=plan.name,
        recipe=plan.recipe,
        target=plan.target,
        trt=".".join(shop.toolchain.version.split(".")[:3]) if own else None,
        here=plan.here,
        rewrite=request.rewrite,
        inputs=reading.shapes,
        search_s=request.search_s,
    )
    report = deploy(order, shop, cache, say, spoilt)
    beside = onnx_file.external_files(onnx_file.load(model), model)
    if words:
        orders.remember(cache, words, report.engine, beside)
    return report


def _words(request: Request, plan: Plan) -> str:
    """Name of the order by its words; empty where the network cannot be read, which is told later."""
    frames = footage.digest(plan.calib, request.frames) if plan.calib is not None else ""
    settings = msgspec.structs.replace(plan.recipe.config, model="")
    options = [request.backend, request.threads, request.rewrite, request.search_s]
    waterfall = plan.source.written() if plan.source is not None else ""
    parts = [settings, plan.target, plan.here, options, frames, waterfall, device()]
    try:
        return orders.words_of(plan.recipe.model, parts)
    except OSError:
        return ""


def _shop(request: Request, plan: Plan, reading: Reading) -> Shop:
    """TensorRT where there is a GPU or it was named; otherwise the CPU backend named, or the fastest.

    Raises:
        PlacementError: an engine for this machine's DLA was asked of a CPU backend.
    """
    from edgetrt import workshop
    from edgetrt.model import onnx_file

    frames = footage.Footage(reading, plan.calib, request.frames) if plan.calib else None
    materials = workshop.Materials(reading, frames, plan.source, request.bench_s)
    core = plan.recipe.config.dla if plan.here else None
    if request.backend == "tensorrt" or core is not None:
        if request.backend not in ("auto", "tensorrt"):
            raise PlacementError(
                f"--dla with --backend {request.backend}: only TensorRT runs the DLA",
                "Leave out --backend.",
            )
        return workshop.tensorrt_shop(core, materials)
    if request.backend == "auto":
        try:
            return workshop.tensorrt_shop(None, materials, gpu=True)
        except BackendError:
            pass
    model = reading.recipe.model
    name = request.backend
    digest = onnx_file.digest(model)
    backend = app.pick_backend(name, model, digest, request.threads, reading.shapes)
    return workshop.CpuShop(backend, request.threads, materials)


def _pipeline(plan: Plan) -> PipelineConfig:
    """The pipeline that the engine serves; its settings no longer depend on any file's place."""
    known = app.active().get(plan.name)
    written = PipelineConfig(
        name=plan.name,
        model=str(plan.recipe.model.resolve()),
        source=plan.source.written() if plan.source is not None else "",
    )
    if known is None:
        return written
    return msgspec.structs.replace(known.pipeline, model=written.model, source=written.source)


def _deployed(request: Request, plan: Plan, report: Report) -> Deployed:
    return Deployed(
        fingerprint=report.engine,
        backend=report.backend,
        model=report.model,
        precision=report.precision,
        deployed_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        task=plan.recipe.config.task,
        preprocess=plan.recipe.config.preprocess,
        threads=request.threads,
        dla=plan.recipe.config.dla if plan.here else None,
    )
