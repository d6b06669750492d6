"""`edgetrt inspect`: what a network is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetrt.cli.output import out, print_json
from edgetrt.config import RecipeConfig

if TYPE_CHECKING:
    from rich.table import Table

    from edgetrt.model.inspect import ModelInfo
    from edgetrt.types import TensorSpec

_LABELS_SHOWN = 8


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx|RECIPE.yaml", help="What to read.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a network's tensors, task, labels, operators, parameters and FLOPs."""
    from edgetrt.engine import recipe as recipes
    from edgetrt.engine.recipe import Recipe
    from edgetrt.model.inspect import inspect as read
    from edgetrt.runtime.reading import Reading

    known = model.suffix in (".yaml", ".yml")
    recipe = recipes.read(model) if known else Recipe(model, model, RecipeConfig(model=str(model)))
    info = read(recipe.model, recipe.config.preprocess.input_size)
    info = replace(info, notes=tuple(dict.fromkeys((*info.notes, *Reading(recipe, info).notes))))
    if json:
        print_json({**vars(info), "path": str(info.path)})
    else:
        out.print(_table(info))


def _table(info: ModelInfo) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, title=info.path.name, title_justify="left")
    for name, text in _rows(info):
        table.add_row(name, Text(text))  # Text: labels may contain what rich takes for markup
    return table


def _rows(info: ModelInfo) -> list[tuple[str, str]]:
    size = (
        "free" if info.image_size is None else "{} x {} (width x height)".format(*info.image_size)
    )
    rows = [
        ("task", info.task or "unknown"),
        ("labels", _labels(info.labels)),
        ("image size", size),
        ("stride", str(info.stride or "unknown")),
        *(("input", _tensor(spec)) for spec in info.inputs),
        *(("output", _tensor(spec)) for spec in info.outputs),
        ("operators", ", ".join(f"{op} {count}" for op, count in info.operators.items())),
        ("parameters", f"{info.parameters:,}"),
        ("work", f"{info.flops / 1e9:.3f} GFLOP per run"),
        ("opset", str(info.opset)),
        ("producer", info.producer or "unknown"),
        ("sha256", info.digest),
    ]
    return rows + [("note", note) for note in info.notes]


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} [{', '.join('?' if d < 0 else str(d) for d in spec.shape)}]"


def _labels(labels: tuple[str, ...]) -> str:
    if not labels:
        return "none"
    more = f", ... ({len(labels)} in all)" if len(labels) > _LABELS_SHOWN else ""
    return ", ".join(labels[:_LABELS_SHOWN]) + more
