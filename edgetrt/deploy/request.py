"""What a person asked `deploy` for, looked up: the recipe, the frames, the board, the pipeline's name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgetrt import app, document
from edgetrt.boards.machine import device
from edgetrt.engine import recipe as recipes
from edgetrt.engine.active import pipeline_name
from edgetrt.engine.recipe import Recipe
from edgetrt.engine.toolset import BENCH_S, SEARCH_S
from edgetrt.errors import ConfigError, PlacementError
from edgetrt.model import targets
from edgetrt.sources import uri as uris

if TYPE_CHECKING:
    from edgetrt.config import BackendName
    from edgetrt.sources.uri import SourceUri


@dataclass(frozen=True)
class Request:
    """What a person typed; see `edgetrt deploy --help`."""

    what: Path
    name: str | None = None
    source: str | None = None
    calib: str | None = None
    precision: str | None = None
    dla: int | None = None
    target: str | None = None
    strict: bool = False
    backend: BackendName = "auto"
    threads: int = 0
    frames: int = 100
    search_s: float = SEARCH_S
    bench_s: float = BENCH_S
    rewrite: bool = True
    dry_run: bool = False


@dataclass(frozen=True)
class ResolvedRequest:
    """A request, looked up: what it is about.

    Attributes:
        name: of the pipeline.
        recipe: with the command line's word on top.
        source: what the pipeline runs over; None when nobody said.
        calib: where frames come from; None when there are none.
        target: whose DLA; None without.
        here: the target is this machine.
    """

    name: str
    recipe: Recipe
    source: SourceUri | None
    calib: SourceUri | None
    target: str | None
    here: bool


def look_up(request: Request) -> ResolvedRequest:
    """Read the recipe and say what everything in the request means here.

    Raises:
        ConfigError: something in it is not known.
        PlacementError: a DLA is asked of a machine without one.
    """
    found = recipes.read(request.what)
    values = {"precision": request.precision, "dla": request.dla}
    asked = {key: value for key, value in values.items() if value is not None}
    if request.strict:
        asked["strict"] = True
    recipe = Recipe(found.path, found.model, document.override(found.config, asked))
    name = pipeline_name(request.name or name_of(request.what))
    source = _source(request, name)
    calib = uris.parse(request.calib) if request.calib is not None else source
    return ResolvedRequest(name, recipe, source, calib, *_target(request, recipe))


def _source(request: Request, name: str) -> SourceUri | None:
    """The source asked for, else the one that the pipeline of that name runs over now."""
    if request.source is not None:
        return uris.parse(request.source)
    known = app.active().get(name)
    return uris.parse(known.pipeline.source) if known and known.pipeline.source else None


def _target(request: Request, recipe: Recipe) -> tuple[str | None, bool]:
    """The board whose DLA is meant (the one named, else this one), and whether it is this one.

    Raises:
        ConfigError: a board that is not known, or one without --dla.
        PlacementError: none was named, and this machine has no DLA.
    """
    if request.target is not None:
        targets.find_target(request.target)
    if recipe.config.dla is None:
        if request.target is not None:
            raise ConfigError(
                f"--target {request.target}: it is the board whose DLA is meant", "Add --dla."
            )
        return None, True
    machine = device()
    here = targets.target_of(machine.part_number)
    if request.target is not None:
        return request.target, request.target == here
    if here is None:
        raise PlacementError(
            f"--dla: this machine ({machine.model}) has no DLA",
            "Name the board the engine is for, to see its placement: --target orin-nx-16gb. "
            f"Boards: {', '.join(targets.boards().targets)}.",
        )
    return here, True


def name_of(path: Path) -> str:
    """A pipeline's name from a file's."""
    stem = path.resolve().parent.name if path.stem.startswith("recipe") else path.stem
    return re.sub(r"[^a-z0-9-]+", "-", stem.lower()).strip("-")[:63] or "pipeline"
