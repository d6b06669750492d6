"""`deploy` from the person's words to a running pipeline: composition, like `app`."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgetrt import app, document, wire, workshop
from edgetrt.config import PipelineConfig
from edgetrt.engine import recipe as recipes
from edgetrt.engine.active import Deployed
from edgetrt.engine.cache import Cache, default_root
from edgetrt.engine.deploy import deploy
from edgetrt.engine.fitting import Order
from edgetrt.engine.recipe import Recipe
from edgetrt.engine.report import Report
from edgetrt.errors import MessageError, PlacementError, TransportError
from edgetrt.link import Receiver, Sender
from edgetrt.model import onnx_file, targets
from edgetrt.runtime.reading import Reading
from edgetrt.sources import uri as uris

if TYPE_CHECKING:
    from edgetrt.config import BackendName
    from edgetrt.engine.active import Record
    from edgetrt.engine.deploy import Say, Shop
    from edgetrt.sources.uri import SourceUri

SWAP_S = 30.0
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
    rewrite: bool = True
    dry_run: bool = False


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        cache: `hit` or `miss`.
        report: about the engine.
        state: `swapped` (a running runtime has taken it), `installed` (it is for the next start),
            `cached` (there is no source to run it over) or `dry-run`.
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


def run(request: Request, say: Say) -> Deployment:
    """Deploy what was asked for.

    Raises:
        EdgetrtError: the first thing that does not work out; what served before goes on serving.
    """
    started = time.monotonic()
    recipe = _recipe(request)
    name = request.name or pipeline_name(request.what)
    reading = Reading.of(recipe)
    source = _source(request, name)
    order = Order(
        name=name,
        recipe=recipe,
        target=_target(request),
        trt=None,
        rewrite=request.rewrite,
        inputs=reading.shapes,
    )
    shop = _shop(request, reading, source)
    report = deploy(order, shop, Cache(default_root()), say)
    if request.dry_run:
        state, detail, previous = "dry-run", "", None
    elif source is None:
        state, detail, previous = "cached", "Add --source URI to run a pipeline with it.", None
    else:
        say("activate", "")
        record = app.active().activate(_pipeline(request, name, recipe, source), _deployed(report))
        state, detail = tell_runtime(name)
        previous = record.previous.fingerprint if record.previous else None
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


def pipeline_name(path: Path) -> str:
    """A pipeline's name from a file's."""
    stem = path.parent.name if path.stem.startswith("recipe") else path.stem
    return re.sub(r"[^a-z0-9-]+", "-", stem.lower()).strip("-")[:63] or "pipeline"


def tell_runtime(name: str) -> tuple[str, str]:
    """Let a running runtime swap the engine in; it is for the next start where none runs."""
    sockets = app.run_dir()
    asker = f"deploy-{os.getpid()}.sock"
    message = wire.ActivateMessage(pipeline=name, reply=asker)
    try:
        with Receiver(sockets / asker) as inbox, Sender(sockets / app.RUNTIME_SOCKET) as runtime:
            if not runtime.send(wire.encode(message)):
                return "installed", "No runtime runs here now; the next start takes it."
            answer = inbox.receive(SWAP_S)
    except TransportError:
        return "installed", "No runtime runs here now; the next start takes it."
    if answer is None:
        return "installed", f"The runtime did not answer within {SWAP_S:.0f} s; see its log."
    try:
        told = wire.decode_link(answer)
    except MessageError as error:
        return "installed", error.message
    if not isinstance(told, wire.ActivatedMessage) or told.error:
        return "installed", getattr(told, "error", "the runtime answered something else")
    return "swapped", "The running pipeline took it between two frames."


def _recipe(request: Request) -> Recipe:
    """The recipe with the command line's word on top."""
    found = recipes.read(request.what)
    values = {"precision": request.precision, "dla": request.dla}
    asked = {key: value for key, value in values.items() if value is not None}
    if request.strict:
        asked["strict"] = True
    return Recipe(found.path, found.model, document.override(found.config, asked))


def _target(request: Request) -> str | None:
    """The board whose DLA is meant: the one named, else this one.

    Raises:
        PlacementError: none was named, and this machine has no DLA.
    """
    if request.dla is None:
        return None
    if request.target is not None:
        targets.find_target(request.target)
        return request.target
    here = targets.target_of(workshop.device().part_number)
    if here is None:
        raise PlacementError(
            f"--dla: this machine ({workshop.device().model}) has no DLA",
            "Name the board the engine is for, to see its placement: --target orin-nx-16gb. "
            f"Boards: {', '.join(targets.boards().targets)}.",
        )
    return here


def _source(request: Request, name: str) -> SourceUri | None:
    """The source asked for, else the one that the pipeline of that name runs over now."""
    if request.source is not None:
        return uris.parse(request.source)
    known = app.active().get(name)
    return uris.parse(known.pipeline.source) if known else None


def _shop(request: Request, reading: Reading, source: SourceUri | None) -> Shop:
    calib = uris.parse(request.calib) if request.calib is not None else source
    footage = workshop.Footage(reading, calib, request.frames) if calib else None
    parts = (reading, footage, source)
    if request.backend == "tensorrt":
        return workshop.TensorRtShop(*parts)
    digest = onnx_file.digest(reading.recipe.model)
    backend = app.pick_backend(
        request.backend, reading.recipe.model, digest, request.threads, reading.shapes
    )
    return workshop.CpuShop(backend, request.threads, *parts)


def _pipeline(request: Request, name: str, recipe: Recipe, source: SourceUri) -> PipelineConfig:
    """The pipeline that the engine serves; its settings no longer depend on any file's place."""
    known = app.active().get(name)
    written = PipelineConfig(
        name=name,
        model=str(recipe.model.resolve()),
        source=source.written(),
        threads=request.threads,
    )
    base = written if known is None else known.pipeline
    return msgspec.structs.replace(
        base,
        model=written.model,
        source=written.source,
        threads=written.threads,
        task=recipe.config.task,
        preprocess=recipe.config.preprocess,
    )


def _deployed(report: Report) -> Deployed:
    return Deployed(
        fingerprint=report.engine,
        backend=report.backend,
        model=report.model,
        precision=report.precision,
        deployed_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
