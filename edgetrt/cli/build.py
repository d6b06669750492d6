"""`edgetrt build`: an engine in the cache, not yet at work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgetrt.engine.toolset import SEARCH_S


def build(  # each is an option
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx|RECIPE.yaml", help="What to build.")],
    backend: Annotated[
        str, typer.Option(help="auto, tensorrt, onnxruntime or openvino.")
    ] = "tensorrt",
    dla: Annotated[bool, typer.Option("--dla", help="Put it onto this board's DLA.")] = False,
    core: Annotated[int, typer.Option(min=0, max=1, help="DLA core, with --dla.")] = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse when a compute layer stays on the GPU.")
    ] = False,
    precision: Annotated[
        str | None, typer.Option(help="auto, fp32, fp16 or int8; default: the recipe's.")
    ] = None,
    calib: Annotated[
        str | None, typer.Option(help="Folder or URI of frames to calibrate and judge with.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames to take at most.")] = 100,
    search_s: Annotated[
        float, typer.Option("--search-s", min=0, help="Seconds to look for layers that INT8 hurts.")
    ] = SEARCH_S,
    rewrite: Annotated[
        bool, typer.Option("--rewrite/--no-rewrite", help="Change the network to fit the DLA.")
    ] = True,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Copy engine and manifest there.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures there.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Build an engine for this device and keep it in the cache; `deploy` puts one to work."""
    from edgetrt import config as configs
    from edgetrt.cli.deploy_report import tell
    from edgetrt.cli.progress import Steps
    from edgetrt.deploy.deployment import copy_out, run
    from edgetrt.deploy.request import Request

    request = Request(
        what=model,
        calib=calib,
        precision=precision,
        dla=core if dla else None,
        strict=strict,
        backend=configs.backend(backend),
        frames=frames,
        search_s=search_s,
        rewrite=rewrite,
        dry_run=True,
    )
    with Steps() as steps:
        done = run(request, steps.say)
    if output is not None:
        copy_out(done.report.engine, output)
    tell(done, html, json)
