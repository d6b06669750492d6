"""`edgetrt run`: one pipeline in the foreground."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgetrt.config import PipelineConfig
    from edgetrt.types import PipelineHealth


def run(
    what: Annotated[
        Path, typer.Argument(metavar="PIPELINE.yaml|MODEL.onnx|RECIPE.yaml", help="What to run.")
    ],
    source: Annotated[
        str | None,
        typer.Option(help="file:, rtsp:, dir:, synthetic: or a path; overrides the pipeline's."),
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(help="jsonl:PATH, video:PATH or image:PATH; may be repeated."),
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
    """Run a network over a source and say how it went."""
    from edgetrt import app
    from edgetrt.cli import output
    from edgetrt.sources import uri as uris

    overrides = {"backend": backend, "rate_hz": rate_hz, "depth": depth, "threads": threads}
    pipeline = _pipeline(what, source, {k: v for k, v in overrides.items() if v is not None})
    extra = [app.open_sink(text, Path.cwd(), live=False) for text in sink or []]
    supervisor = app.supervisor(
        pipeline,
        what.resolve().parent,
        source=uris.parse(source) if source else None,
        sinks=lambda: extra,
    )
    stop = app.stop_on_signals()
    started = time.monotonic()
    try:
        supervisor.run_once(stop, frames)
    finally:
        supervisor.close()
    health, elapsed_s = supervisor.meter.health(), time.monotonic() - started
    if json:
        output.print_json(_report(health, elapsed_s, supervisor.meter.mean_objects()))
    else:
        _print(health, elapsed_s, supervisor.meter.mean_objects())


def _pipeline(what: Path, source: str | None, overrides: dict[str, Any]) -> PipelineConfig:
    """Read a pipeline file, or make the pipeline that runs a network or a recipe.

    Raises:
        ConfigError: the file is wrong, an override is, or there is no source.
    """
    from edgetrt import document
    from edgetrt.config import PipelineConfig
    from edgetrt.errors import ConfigError

    if what.suffix in (".yaml", ".yml"):
        written = document.parse(what)
        is_pipeline = isinstance(written.data, dict) and bool(
            {"source", "name"} & written.data.keys()
        )
    else:
        is_pipeline = False
    if is_pipeline:
        return document.override(document.convert(written, PipelineConfig), overrides)
    if source is None:
        raise ConfigError(
            f"{what}: no source to run it over",
            "Add --source, for example `--source camera.mp4` or `--source synthetic:640x480?frames=100`.",
        )
    name = re.sub(r"[^a-z0-9-]+", "-", what.stem.lower()).strip("-")[:63] or "pipeline"
    pipeline = PipelineConfig(name=name, model=str(what.resolve()), source=source)
    return document.override(pipeline, overrides)


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


def _print(health: PipelineHealth, elapsed_s: float, mean_objects: float | None) -> None:
    from rich.table import Table

    from edgetrt.cli.output import out

    counters = health.counters
    table = Table(title=f"{health.pipeline} on {health.backend}", title_justify="left")
    for column in ("stage", "p50 ms", "p99 ms", "mean ms"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    rows = [*health.stages.items(), *([("latency", health.latency)] if health.latency else [])]
    for name, stats in rows:
        table.add_row(name, f"{stats.p50_ms:.2f}", f"{stats.p99_ms:.2f}", f"{stats.mean_ms:.2f}")
    out.print(table)
    found = "" if mean_objects is None else f", {mean_objects:.2f} objects per frame"
    out.print(
        f"{counters.done} frames in {elapsed_s:.1f} s, {health.fps:.1f} per second{found}; "
        f"{counters.dropped} dropped, {counters.refused} refused, {counters.unsent} not taken by a sink",
        highlight=False,
    )
