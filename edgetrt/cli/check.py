"""`edgetrt check`: which layers of a network fit the DLA of a board, without the board."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetrt.cli.output import out, print_json
from edgetrt.errors import ConfigError, PlacementError

if TYPE_CHECKING:
    from rich.table import Table

    from edgetrt.model.graph import Graph
    from edgetrt.model.placement import Placement
    from edgetrt.model.rewrite import Applied
    from edgetrt.types import Shape

_PRECISIONS = ("fp16", "int8", "fp32")


def check(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx|RECIPE.yaml", help="What to read.")],
    dla: Annotated[
        bool, typer.Option("--dla", help="Place the layers on the DLA: the default.")
    ] = True,
    target: Annotated[str, typer.Option(help="Board, for example orin-nx-16gb.")] = "orin-nx-16gb",
    trt: Annotated[
        str | None, typer.Option(help="TensorRT's version; default: the newest with a DLA there.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp16, int8 or fp32.")] = "fp16",
    loadables_free: Annotated[
        int, typer.Option(help="Loadables that the core can still take.", min=0, max=16)
    ] = 16,
    rewrite: Annotated[
        bool, typer.Option("--rewrite", help="Place it after the rewrites that deploy would do.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail when a compute layer stays on the GPU.")
    ] = False,
    min_coverage: Annotated[
        float, typer.Option(help="Fail when less of the FLOPs (0..1) fit the DLA.", min=0, max=1)
    ] = 0.0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures there.")] = None,
) -> None:
    """Say layer by layer what runs on the DLA, what does not, why, and what would help."""
    from edgetrt.model import dla_report, onnx_file
    from edgetrt.model.dla import check as place
    from edgetrt.model.graph import Graph
    from edgetrt.model.head_split import find_split
    from edgetrt.model.rewrite import lift

    if precision not in _PRECISIONS:
        raise ConfigError(f"unknown precision {precision!r}", f"One of {', '.join(_PRECISIONS)}.")
    path, sizes = _read(model)
    graph, applied = _filled(Graph.of(onnx_file.load(path, external=rewrite)), sizes)
    if rewrite:
        lifted = lift(graph, target, trt, precision)
        graph, applied = lifted.graph, (*applied, *lifted.applied)
    placement = _open_told(place(graph, target, trt, precision, loadables_free), graph)
    split = find_split(graph, placement)
    if html is not None:
        _write(html, dla_report.to_html(placement, model.name, applied, split))
    if json:
        print_json(dla_report.to_dict(placement, str(model), applied, split))
    else:
        _print(placement, model.name, (*map(str, applied), *([str(split)] if split else [])))
    _demand(placement, strict, min_coverage)


def _read(model: Path) -> tuple[Path, dict[str, Shape]]:
    """The network's file, and the sizes of its inputs as far as recipe and exporter say them."""
    from edgetrt.engine import recipe as recipes
    from edgetrt.model.feeding import sized
    from edgetrt.model.inspect import summarize

    size = None
    if model.suffix in (".yaml", ".yml"):
        recipe = recipes.read(model)
        model, size = recipe.model, recipe.config.preprocess.input_size
    summary = summarize(model)
    said = summary.image_size
    size = size or ((said[1], said[0]) if said is not None else None)
    return model, {spec.name: sized(spec, size).shape for spec in summary.inputs}


def _filled(graph: Graph, sizes: dict[str, Shape]) -> tuple[Graph, tuple[Applied, ...]]:
    """Fill open dimensions as a deployment does."""
    from edgetrt.model.rewrite import Applied
    from edgetrt.model.rewrites.shapes import open_inputs, static_shapes

    filled = static_shapes(graph, {name: shape for name, shape in sizes.items() if -1 not in shape})
    done = tuple(name for name in open_inputs(graph) if name not in open_inputs(filled))
    if not done:
        return filled, ()
    return filled, (Applied("static_shapes", "dimensions of inputs filled, as deploy does", done),)


def _open_told(placement: Placement, graph: Graph) -> Placement:
    """Say once what every row says, where an input's dimensions are still open."""
    from edgetrt.model.rewrites.shapes import open_inputs

    names = open_inputs(graph)
    if not names or placement.verdict == "no-dla":
        return placement
    what = f"Dimensions of {', '.join(names)} are open, and the DLA takes fixed ones only: say height and "
    hint = what + "width in a recipe (`preprocess: {input_size: [640, 640]}`) and check that."
    return replace(placement, hint=hint)


def _write(path: Path, page: str) -> None:
    try:
        path.write_text(page, "utf-8")
    except OSError as error:
        hint = "name a file in a folder that exists and can be written"
        raise ConfigError(f"{path}: cannot be written: {error.strerror}", hint) from error


def _demand(placement: Placement, strict: bool, min_coverage: float) -> None:
    """Fail when the placement is not what was asked for.

    Raises:
        PlacementError: too little is on the DLA.
    """
    where = f"{placement.target} with TensorRT {placement.trt}"
    if placement.flops_share < min_coverage:
        raise PlacementError(
            f"{placement.flops_share:.2%} of the FLOPs fit the DLA of {where}, at least "
            f"{min_coverage:.2%} were asked for",
            placement.hint or "see the fixes in the report",
        )
    if strict and (placement.gpu_compute or placement.verdict == "no-dla"):
        raise PlacementError(
            f"{len(placement.gpu_compute)} compute layers stay on the GPU of {where}",
            placement.hint or "see the fixes in the report, or leave --strict away",
        )


def _print(placement: Placement, name: str, steps: tuple[str, ...]) -> None:
    from rich.markup import escape

    from edgetrt.model.dla_report import numbers

    out.print(f"[bold]{escape(name)}[/] on {placement.target}, TensorRT {placement.trt}")
    out.print(f"[bold]{placement.verdict}[/]: {escape(placement.reason)}", soft_wrap=True)
    if placement.hint:
        out.print(escape(placement.hint), soft_wrap=True)
    if placement.verdict == "no-dla":
        return
    out.print(" · ".join(f"{what} {value}" for what, value in numbers(placement)), soft_wrap=True)
    if placement.on("gpu"):
        out.print(_table(placement))
    for step in steps:
        out.print(escape(step), soft_wrap=True)
    for note in placement.notes:
        out.print(f"note: {escape(note)}", soft_wrap=True)


def _table(placement: Placement) -> Table:
    """Layers on the GPU; those with the same reason in one row."""
    from rich.table import Table
    from rich.text import Text

    table = Table("on the GPU", "operators", "why", "fix")
    rows: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for layer in placement.on("gpu"):
        rows.setdefault((layer.reason, layer.fix), []).append((layer.name, layer.op))
    for (reason, fix), found in rows.items():
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        ops = ", ".join(dict.fromkeys(op for _, op in found))
        table.add_row(*map(Text, (found[0][0] + more, ops, reason, fix)))
    return table
