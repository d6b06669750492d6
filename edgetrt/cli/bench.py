"""`edgetrt bench`: how fast an engine is, alone and in the loop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgetrt.deploy.measuring import Measured


def bench(
    what: Annotated[
        str, typer.Argument(metavar="PIPELINE|MODEL.onnx|RECIPE.yaml", help="What to measure.")
    ],
    source: Annotated[
        str | None, typer.Option(help="Run the whole loop over it, too; default: the pipeline's.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Per measurement.")] = 3.0,
    backend: Annotated[str, typer.Option(help="For a model: auto, onnxruntime …")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="Of a CPU backend; 0 = its choice.")] = 0,
    config: Annotated[
        Path | None,
        typer.Option(help="agent.yaml of the device whose PIPELINE is measured, by itself."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure throughput and latency in trtexec's words, and where a frame's time goes."""
    from edgetrt import config as configs
    from edgetrt.cli.output import out, print_json
    from edgetrt.deploy import measuring

    measured = measuring.bench(
        Path(what), source, seconds, configs.backend(backend), threads, config
    )
    if json:
        print_json(measured)
    else:
        _print(measured, out)


def _print(measured: Measured, console: object) -> None:
    from rich.console import Console
    from rich.table import Table

    assert isinstance(console, Console)  # noqa: S101
    figures = measured.engine
    console.print(
        f"[bold]{measured.name}[/] on {measured.backend}: {figures.throughput_qps:.1f} qps, "
        f"{figures.runs} runs in {figures.walltime_s:.1f} s",
        highlight=False,
    )
    table = Table("", "min", "mean", "median", "p90", "p95", "p99", "max", box=None)
    told = figures.latency_ms
    values = (told.min, told.mean, told.median, told.p90, told.p95, told.p99, told.max)
    table.add_row("latency ms", *(f"{value:.2f}" for value in values))
    console.print(table)
    if measured.stages_ms:
        loop = Table(
            "stage", "p50 ms", "p99 ms", box=None, title="In the loop", title_justify="left"
        )
        for name, (p50, p99) in measured.stages_ms.items():
            loop.add_row(name, f"{p50:.2f}", f"{p99:.2f}")
        console.print(loop)
        console.print(f"{measured.fps:.1f} frames per second", highlight=False)
    for warning in figures.warnings:
        console.print(f"[yellow]warning:[/] {warning}", highlight=False)
