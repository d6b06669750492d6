"""`edgetrt deploy`: from a network to a verified engine that serves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgetrt.engine.toolset import BENCH_S, SEARCH_S


def deploy(  # each is an option
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx|RECIPE.yaml", help="What to deploy.")
    ],
    dla: Annotated[bool, typer.Option("--dla", help="Put it onto the DLA.")] = False,
    core: Annotated[int, typer.Option(min=0, max=1, help="DLA core, with --dla.")] = 0,
    target: Annotated[
        str | None, typer.Option(help="Board to place for, with --dla; default: this one.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse when a compute layer stays on the GPU.")
    ] = False,
    precision: Annotated[
        str | None, typer.Option(help="auto, fp32, fp16 or int8; default: the recipe's.")
    ] = None,
    calib: Annotated[
        str | None, typer.Option(help="Folder or URI of frames to calibrate and judge with.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="What the pipeline shall run over; also gives frames.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the pipeline; default: the model's.")] = None,
    backend: Annotated[str, typer.Option(help="auto, tensorrt, onnxruntime or openvino.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="Of a CPU backend; 0 = its choice.")] = 0,
    frames: Annotated[int, typer.Option(min=1, help="Frames to take at most.")] = 100,
    search_s: Annotated[
        float, typer.Option("--search-s", min=0, help="Seconds to look for layers that INT8 hurts.")
    ] = SEARCH_S,
    bench_s: Annotated[
        float, typer.Option("--bench-s", min=0, help="Seconds to measure the finished engine.")
    ] = BENCH_S,
    rewrite: Annotated[
        bool, typer.Option("--rewrite/--no-rewrite", help="Change the network to fit the DLA.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do everything but put it to work.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures there.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make an engine for this device, prove its accuracy, measure it, and put it to work."""
    from edgetrt import config as configs
    from edgetrt.cli.deploy_report import tell
    from edgetrt.cli.progress import Steps
    from edgetrt.deploy.deployment import run
    from edgetrt.deploy.request import Request

    request = Request(
        what=model,
        name=name,
        source=source,
        calib=calib,
        precision=precision,
        dla=core if dla else None,
        target=target,
        strict=strict,
        backend=configs.backend(backend),
        threads=threads,
        frames=frames,
        search_s=search_s,
        bench_s=bench_s,
        rewrite=rewrite,
        dry_run=dry_run,
    )
    with Steps() as steps:
        done = run(request, steps.say)
    tell(done, html, json)
