"""`edgetrt verify`: an engine against its reference, on your frames."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def verify(
    what: Annotated[
        str, typer.Argument(metavar="PIPELINE|MODEL.onnx|RECIPE.yaml", help="What to judge.")
    ],
    calib: Annotated[
        str | None, typer.Option(help="Folder or URI of frames; default: the pipeline's source.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames to compare at most.")] = 32,
    backend: Annotated[str, typer.Option(help="For a model: auto, onnxruntime …")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare an engine's answers with ONNX Runtime FP32; exits with 1 when it loses too much."""
    from edgetrt import config as configs
    from edgetrt.cli.output import out, print_json
    from edgetrt.deploy import measuring

    verdict = measuring.verify(Path(what), calib, frames, configs.backend(backend))
    if json:
        print_json(asdict(verdict))
    else:
        mark = "[green]passed[/]" if verdict.passed else "[red]failed[/]"
        out.print(
            f"{mark}: {verdict.measure} {verdict.value:.4f}, at least {1 - verdict.limit:.4f} asked for",
            highlight=False,
        )
        for name, value in verdict.per_class.items():
            out.print(f"  {name}: {value:.4f}", highlight=False)
    if not verdict.passed:
        raise typer.Exit(1)
