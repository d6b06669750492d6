"""`edgetrt run`: one pipeline in the foreground."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from edgetrt.config import PipelineConfig
    from edgetrt.types import PipelineHealth


def run(
    what: Annotated[
        Path, typer.Argument(metavar="PIPELINE.yaml|MODEL.onnx|RECIPE.yaml", help="What to run.")
    ],
    source: Annotated[
        str | None,
        typer.Option(
            help="file:, dir:, rtsp:, rtsps:, csi:, v4l2:, gst:, synthetic: or a path; "
            "overrides the pipeline's."
        ),
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(
            help="jsonl:PATH (appended to), video:PATH or image:PATH (replaced); may be repeated."
        ),
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="auto, tensorrt, onnxruntime or openvino.")
    ] = None,
    rate_hz: Annotated[float | None, typer.Option(help="Frames per second at most.")] = None,
    depth: Annotated[
        int | None, typer.Option(help="Frames in flight: 2 prepares one while another runs.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of the backend; 0 leaves it the choice.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run a network over a source and say how it went.

    With `jsonl:-` standard output belongs to the results, and the report goes to standard error.
    """
    from edgetrt import app, document
    from edgetrt.cli import output
    from edgetrt.errors import InferenceError, ResultsLostError
    from edgetrt.sources import uri as uris

    written = {"backend": backend, "rate_hz": rate_hz, "depth": depth, "threads": threads}
    overrides: dict[str, Any] = {k: v for k, v in written.items() if v is not None}
    pipeline, from_file = _pipeline(what, source)
    overrides["sinks"] = (
        *pipeline.sinks,
        *(app.whole_sink(text, Path.cwd()) for text in sink or []),
    )
    pipeline = document.override(pipeline, overrides)
    supervisor = app.supervisor(
        pipeline,
        what.resolve().parent,
        source=uris.parse(source) if source else None,
        deployed=from_file and backend is None,
        file=what if from_file else None,
    )
    stop = app.stop_on_signals()
    started = time.monotonic()
    try:
        supervisor.run_once(stop, frames)
    finally:
        supervisor.close()
    health, elapsed_s = supervisor.meter.health(), time.monotonic() - started
    console = output.err if app.uses_stdout(pipeline.sinks) else output.out
    if json:
        report = _report(health, elapsed_s, supervisor.meter.mean_objects())
        output.print_json(report, console)
    else:
        _print(health, elapsed_s, supervisor.meter.mean_objects(), console)
    if health.counters.refused and not health.counters.done:
        raise InferenceError(
            f"{pipeline.model}: not one frame was answered: {health.error}",
            "Try it with --backend onnxruntime and in FP32; if it stays so, the network itself is at fault.",
        )
    if supervisor.lost:
        raise ResultsLostError(
            f"{pipeline.name}: {supervisor.lost} results of {health.counters.done} could not be written",
            "The warning above says why; make room, or name another file.",
        )


def _pipeline(what: Path, source: str | None) -> tuple[PipelineConfig, bool]:
    """Read a pipeline file (and True), or make the pipeline that runs a network or a recipe.

    Raises:
        ConfigError: the file is wrong, or there is no source.
    """
    from edgetrt import document
    from edgetrt.config import PipelineConfig
    from edgetrt.errors import ConfigError

    if what.suffix.lower() in (".yaml", ".yml"):
        written = document.parse(what)
        if not written.data:
            raise ConfigError(
                f"{what}:1: is empty", "Write a pipeline: name, model and source at least."
            )
        if not isinstance(written.data, dict) or {"source", "name"} & written.data.keys():
            return document.convert(written, PipelineConfig), True
    if source is None:
        raise ConfigError(
            f"{what}: no source to run it over",
            "Add --source, for example `--source camera.mp4` or `--source synthetic:640x480?frames=100`.",
        )
    name = re.sub(r"[^a-z0-9-]+", "-", what.stem.lower()).strip("-")[:63] or "pipeline"
    return PipelineConfig(name=name, model=str(what.resolve()), source=source), False


def _report(health: PipelineHealth, elapsed_s: float, mean_objects: float | None) -> dict[str, Any]:
    counters, latency = health.counters, health.latency
    return {
        "pipeline": health.pipeline,
        "backend": health.backend,
        "engine": health.engine,
        "frames": counters.done,
        "read": counters.read,
        "dropped": counters.dropped,
        "refused": counters.refused,
        "missed": counters.missed,
        "unsent": counters.unsent,
        "reconnects": counters.reconnects,
        "elapsed_s": round(elapsed_s, 3),
        "fps": health.fps,
        "latency_ms": {"p50": latency.p50_ms, "p99": latency.p99_ms} if latency else None,
        "stages_ms": {
            name: {"p50": s.p50_ms, "p99": s.p99_ms, "mean": s.mean_ms}
            for name, s in health.stages.items()
        },
        "mean_detections": None if mean_objects is None else round(mean_objects, 3),
    }


def _print(
    health: PipelineHealth, elapsed_s: float, mean_objects: float | None, console: Console
) -> None:
    from rich.table import Table

    counters = health.counters
    table = Table(title=f"{health.pipeline} on {health.backend}", title_justify="left")
    for column in ("stage", "p50 ms", "p99 ms", "mean ms"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    rows = [*health.stages.items(), *([("latency", health.latency)] if health.latency else [])]
    for name, stats in rows:
        table.add_row(name, f"{stats.p50_ms:.2f}", f"{stats.p99_ms:.2f}", f"{stats.mean_ms:.2f}")
    console.print(table)
    found = "" if mean_objects is None else f", {mean_objects:.2f} objects per frame"
    why = f" ({health.error})" if counters.refused else ""
    console.print(
        f"{counters.done} frame{'s' * (counters.done != 1)} in {elapsed_s:.1f} s, "
        f"{health.fps:.1f} per second once it ran{found}; {counters.dropped} dropped, "
        f"{counters.refused} refused{why}, {counters.unsent} not taken by a sink",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
