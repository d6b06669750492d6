"""`edgetrt build`: an engine in the cache, not yet at work."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from edgetrt.cli.deploy import Steps


def build(  # each is an option
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx|RECIPE.yaml", help="What to build.")],
    backend: Annotated[
        str, typer.Option(help="auto, tensorrt, onnxruntime or openvino.")
    ] = "tensorrt",
    precision: Annotated[
        str | None, typer.Option(help="auto, fp32, fp16 or int8; default: the recipe's.")
    ] = None,
    calib: Annotated[
        str | None, typer.Option(help="Folder or URI of frames to calibrate and judge with.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames to take at most.")] = 100,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Copy engine and manifest there.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures there.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Build an engine for this device and keep it in the cache; `deploy` puts one to work."""
    from edgetrt import config as configs
    from edgetrt.cli.deploy_report import show
    from edgetrt.cli.output import out, print_json
    from edgetrt.deployment import Request, run
    from edgetrt.engine.cache import Cache, default_root

    request = Request(
        what=model,
        calib=calib,
        precision=precision,
        backend=configs.backend(backend),
        frames=frames,
        dry_run=True,
    )
    with Steps(quiet=json) as steps:
        done = run(request, steps.say)
    if output is not None:
        engine = Cache(default_root()).open(done.report.engine)
        output.mkdir(parents=True, exist_ok=True)
        (output / engine.path.name).write_bytes(engine.data)
        shutil.copyfile(engine.path.with_name("manifest.json"), output / "manifest.json")
    if html is not None:
        from edgetrt.engine.page import page

        html.write_text(page(done.report), encoding="utf-8")
    if json:
        print_json(done)
    else:
        show(done, out)
