"""`deploy` from the person's words to a running pipeline: composition, like `app`.

What a repetition does not need (the network's reader, the backends, numpy) is imported where it is used.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgetrt import app
from edgetrt.boards.machine import device
from edgetrt.config import PipelineConfig
from edgetrt.deploy import sample_frames
from edgetrt.deploy.activation import tell_runtime
from edgetrt.deploy.request import look_up
from edgetrt.engine import memo
from edgetrt.engine.active import Deployed
from edgetrt.engine.cache import MANIFEST, Cache, default_root
from edgetrt.engine.report import Report
from edgetrt.errors import (
    BackendError,
    ConfigError,
    PlacementError,
)

if TYPE_CHECKING:
    from edgetrt.deploy.request import Request, ResolvedRequest
    from edgetrt.engine.toolset import Say, Toolset
    from edgetrt.runtime.reading import Reading


_NEVER_RAN = "It was built and never ran, because no GPU is here: nothing was changed."


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


def run(request: Request, say: Say) -> Deployment:
    """Deploy what was asked for.

    Raises:
        EdgetrtError: the first thing that does not work out; what served before goes on serving.
    """
    started = time.monotonic()
    plan = look_up(request)
    cache = Cache(default_root())
    report = make(request, plan, cache, say)
    if request.dry_run:
        state, detail, previous = "dry-run", "", None
    elif not report.runs_here:
        state, detail, previous = "cached", _NEVER_RAN, None
    else:
        say("activate")
        state, detail, previous = _activate(request, plan, report)
    return Deployment(
        cache=report.cache,
        report=report,
        state=state,
        detail=detail,
        previous=previous,
        elapsed_s=round(time.monotonic() - started, 3),
    )


def _activate(
    request: Request, plan: ResolvedRequest, report: Report
) -> tuple[str, str, str | None]:
    """Put an engine to work; returns the state, a word about it, and the engine before."""
    record = app.active().activate(_pipeline(plan), deployed(request, plan, report))
    state, detail = tell_runtime(plan.name)
    if state == "installed" and not record.pipeline.source:
        detail = (
            f"No source yet: add --source URI, or a pipeline file named {plan.name!r} in the "
            "device's config."
        )
    return state, detail, record.previous.fingerprint if record.previous else None


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


def make(request: Request, plan: ResolvedRequest, cache: Cache, say: Say) -> Report:
    """Find the engine that the same words led to before, or go the whole way; nothing is activated.

    Raises:
        EdgetrtError: the first thing that does not work out; the cache is as it was.
    """
    words = _words(request, plan)
    known, spoilt = memo.recall(cache, words, plan.recipe.model) if words else (None, "")
    if known is not None:
        return known.asked_as(plan.name, plan.recipe.model)
    from edgetrt.engine.deploy import deploy
    from edgetrt.engine.placing import BuildOrder
    from edgetrt.model import onnx_file
    from edgetrt.runtime.reading import Reading

    model = plan.recipe.model
    reading = Reading.of(plan.recipe)
    tools = _toolset(request, plan, reading)
    own = plan.here and plan.target is not None and tools.toolchain.flavour == "tensorrt"
    order = BuildOrder(
        name=plan.name,
        recipe=plan.recipe,
        target=plan.target,
        trt=".".join(tools.toolchain.version.split(".")[:3]) if own else None,
        here=plan.here,
        rewrite=request.rewrite,
        inputs=reading.shapes,
        search_s=request.search_s,
        notes=reading.notes,
    )
    report = deploy(order, tools, cache, say, spoilt)
    beside = onnx_file.external_files(onnx_file.load(model), model)
    if words:
        memo.remember(cache, words, report.engine, beside)
    return report


def _words(request: Request, plan: ResolvedRequest) -> str:
    """Name of the order by its words; empty where the network cannot be read, which is told later."""
    frames = sample_frames.digest(plan.calib, request.frames) if plan.calib is not None else ""
    settings = msgspec.structs.replace(plan.recipe.config, model="")
    options = [request.backend, request.threads, request.rewrite, request.search_s]
    waterfall = plan.source.written() if plan.source is not None else ""
    parts = [settings, plan.target, plan.here, options, frames, waterfall, device()]
    try:
        return memo.words_of(plan.recipe.model, parts)
    except OSError:
        return ""


def _toolset(request: Request, plan: ResolvedRequest, reading: Reading) -> Toolset:
    """TensorRT where there is a GPU or it was named; otherwise the CPU backend named, or the fastest.

    Raises:
        PlacementError: an engine for this machine's DLA was asked of a CPU backend.
    """
    from edgetrt.deploy import toolset
    from edgetrt.model import onnx_file

    frames = sample_frames.SampleFrames(reading, plan.calib, request.frames) if plan.calib else None
    materials = toolset.Materials(reading, frames, plan.source, request.bench_s)
    core = plan.recipe.config.dla if plan.here else None
    if request.backend == "tensorrt" or core is not None:
        if request.backend not in ("auto", "tensorrt"):
            raise PlacementError(
                f"--dla with --backend {request.backend}: only TensorRT runs the DLA",
                "Leave out --backend.",
            )
        return toolset.tensorrt_toolset(core, materials)
    if request.backend == "auto":
        try:
            return toolset.tensorrt_toolset(None, materials, gpu=True)
        except BackendError:
            pass
    model = reading.recipe.model
    name = request.backend
    digest = onnx_file.digest(model)
    backend = app.pick_backend(name, model, digest, request.threads, reading.shapes)
    return toolset.CpuToolset(backend, request.threads, materials)


def _pipeline(plan: ResolvedRequest) -> PipelineConfig:
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


def deployed(request: Request, plan: ResolvedRequest, report: Report) -> Deployed:
    """The engine of a report, as it is noted."""
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
