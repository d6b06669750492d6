"""`edgetrt deploy`: from a network to a verified engine that serves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetrt.cli.output import err, out, print_json

if TYPE_CHECKING:
    from rich.progress import TaskID


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
    from edgetrt.deployment import Request, run

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
        rewrite=rewrite,
        dry_run=dry_run,
    )
    with Steps(quiet=json) as steps:
        done = run(request, steps.say)
    if html is not None:
        from edgetrt.engine.page import page

        html.write_text(page(done.report), encoding="utf-8")
    if json:
        print_json(done)
        return
    from edgetrt.cli.deploy_report import show

    show(done, out)


class Steps:
    """A line per step with its time, and what the step under way is doing."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._progress = Progress(*columns, console=err, disable=quiet or not err.is_terminal)
        self._step = ""
        self._task: TaskID | None = None

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()
        self._progress.stop()

    def say(self, step: str, what: str) -> None:
        """Note a step, or what it is doing."""
        if step != self._step:
            self._finish()
            self._step, self._task = step, self._progress.add_task(step, total=None)
        if what and self._task is not None:
            self._progress.update(self._task, description=f"{step}: {what}")

    def _finish(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, total=1, completed=1)
