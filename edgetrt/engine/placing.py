"""The first half of a deployment: what was asked for, and the network made to fit the DLA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgetrt.engine.toolset import SEARCH_S
from edgetrt.errors import PlacementError
from edgetrt.model import onnx_file
from edgetrt.model.dla import check
from edgetrt.model.graph import Graph
from edgetrt.model.head_split import find_split
from edgetrt.model.proof import prove
from edgetrt.model.rewrite import lift
from edgetrt.model.rewrites.shapes import static_shapes
from edgetrt.model.storage import write_network

if TYPE_CHECKING:
    from edgetrt.config import RecipeConfig
    from edgetrt.engine.recipe import Recipe
    from edgetrt.model.placement import Placement
    from edgetrt.types import Shape


@dataclass(frozen=True)
class BuildOrder:
    """What a person asked for.

    Attributes:
        name: of the pipeline.
        recipe: the network and how to read it, with the precision and the limits asked for.
        target: board whose DLA the engine is for; None = no DLA.
        trt: TensorRT's version that the placement is made for; None = the newest with a DLA.
        here: the target is this machine; otherwise only the placement is for the target.
        rewrite: whether the network may be changed to fit.
        inputs: sizes of the inputs, for networks with open dimensions.
        search_s: how long the search for layers that INT8 hurts may take.
        notes: what is taken for granted of the network, for the report.
    """

    name: str
    recipe: Recipe
    target: str | None = None
    trt: str | None = None
    here: bool = True
    rewrite: bool = True
    inputs: Mapping[str, Shape] = field(default_factory=dict)
    search_s: float = SEARCH_S
    notes: tuple[str, ...] = ()

    @property
    def core(self) -> int | None:
        """The DLA core that the engine is built for; None for an engine without DLA."""
        return self.recipe.config.dla if self.here and self.target is not None else None


@dataclass(frozen=True)
class Fitted:
    """The network as it will be built.

    Attributes:
        path: its file.
        placement: on the DLA; None when that was not asked for.
        changes: what was rewritten, in words.
        gpu_layers: layers that must stay on the GPU.
    """

    path: Path
    placement: Placement | None = None
    changes: tuple[str, ...] = ()
    gpu_layers: tuple[str, ...] = ()


def place(order: BuildOrder, folder: Path) -> Fitted:
    """Place the network on the DLA, changing what keeps layers off it.

    Raises:
        PlacementError: no DLA there, too little of the network fits, or, when strict, not all of it.
        AccuracyError: a rewrite changed what the network computes.
    """
    recipe = order.recipe
    if order.target is None:
        return Fitted(recipe.model)
    asked = recipe.config.precision
    precision = "fp16" if asked == "auto" else asked
    before = Graph.of(onnx_file.load(recipe.model))
    if not order.rewrite:
        placement = check(before, order.target, order.trt, precision)
        _require(placement, recipe.config)
        return Fitted(recipe.model, placement)
    lifted = lift(before, order.target, order.trt, precision, sizes=order.inputs)
    _require(lifted.placement, recipe.config)
    split = find_split(lifted.graph, lifted.placement)
    pinned = split.gpu_layers if split is not None else ()
    if not lifted.applied:
        return Fitted(recipe.model, lifted.placement, (), pinned)
    proof = prove(static_shapes(before, order.inputs), lifted.graph)
    path = folder / "rewritten.onnx"
    write_network(lifted.graph.to_model(), path)
    changes = (*(str(change) for change in lifted.applied), f"proven: {proof}")
    return Fitted(path, lifted.placement, changes, pinned)


def _require(placement: Placement, recipe: RecipeConfig) -> None:
    """Refuse a placement that is not what was asked for."""
    where = f"{placement.target} with TensorRT {placement.trt}"
    if placement.verdict == "no-dla":
        raise PlacementError(f"--dla on {where}: {placement.reason}", placement.hint)
    left = placement.gpu_compute
    if recipe.strict and left:
        raise PlacementError(
            f"--strict on {where}: {len(left)} compute layers stay on the GPU, the first is "
            f"{left[0].name} ({left[0].op}): {left[0].reason}",
            left[0].fix or "See them all: edgetrt check MODEL --dla.",
        )
    if placement.flops_share < recipe.dla_coverage:
        raise PlacementError(
            f"--dla on {where}: {placement.flops_share:.0%} of the work fits the DLA, "
            f"expected at least {recipe.dla_coverage:.0%}: {placement.reason}",
            "See why: edgetrt check MODEL --dla. Set `dla_coverage` in the recipe to accept less.",
        )
