"""Rewrites that bring layers to the DLA: same function, other layers.

The placement says which layer falls back and which rewrite would lift it. A rewrite is kept only when
the placement is better afterwards, so that a network never changes for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetrt.model import shapes as shape_inference
from edgetrt.model.dla import check
from edgetrt.model.rewrites.activations import activations
from edgetrt.model.rewrites.convolutions import (
    channel_shuffle,
    deconv_padding,
    depth_space,
    fold_batchnorm,
    fold_pad,
    gather_to_conv,
)
from edgetrt.model.rewrites.dense import gemm_to_conv
from edgetrt.model.rewrites.edit import Rule, rewrite_nodes
from edgetrt.model.rewrites.pooling import global_pool, pooling_windows
from edgetrt.model.rewrites.shapes import open_inputs, resize_scales, static_shapes

if TYPE_CHECKING:
    from edgetrt.model.graph import Graph, Node
    from edgetrt.model.placement import Placement
    from edgetrt.types import Shape

RULES: Mapping[str, tuple[Rule, str]] = {
    "fold_batchnorm": (fold_batchnorm, "batch normalization folded into the convolution before it"),
    "fold_pad": (fold_pad, "padding left to the layer behind it"),
    "global_pool": (
        global_pool,
        "pooling over the whole picture in steps with windows of at most 8",
    ),
    "pooling_windows": (pooling_windows, "windows over 8 as chains of smaller ones"),
    "activations": (activations, "activations and arithmetic in pieces that the DLA has"),
    "depth_space": (depth_space, "pixels and channels rearranged by a convolution"),
    "channel_shuffle": (channel_shuffle, "channels reordered by a 1×1 convolution"),
    "gather_to_conv": (gather_to_conv, "channels picked by a 1×1 convolution"),
    "deconv_padding": (deconv_padding, "border of a deconvolution cut off behind it"),
    "resize_scales": (resize_scales, "resizing by constant scales"),
}
GRAPH_RULES = ("static_shapes", "gemm_to_conv")
NAMES = (*GRAPH_RULES, *RULES)
"""All rewrites that `lift` knows, by the names that turn them off."""

_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Applied:
    """One rewrite that was done.

    Attributes:
        rewrite: its name.
        text: what was done, in words.
        nodes: names of the nodes that were replaced.
    """

    rewrite: str
    text: str
    nodes: tuple[str, ...]

    def __str__(self) -> str:
        shown = ", ".join(self.nodes[:3]) + (
            f" and {len(self.nodes) - 3} more" if len(self.nodes) > 3 else ""
        )
        return f"{self.rewrite}: {self.text} ({shown})"


@dataclass(frozen=True, slots=True)
class Lifted:
    """A network after the rewrites that helped, with its placement and what was done."""

    graph: Graph
    placement: Placement
    applied: tuple[Applied, ...]


def lift(
    graph: Graph,
    target: str,
    trt: str | None = None,
    precision: str = "fp16",
    *,
    off: Collection[str] = (),
    sizes: Mapping[str, Shape] | None = None,
    batch: int = 1,
) -> Lifted:
    """Rewrite what keeps layers off the DLA.

    Args:
        graph: the network.
        target: a key of `boards.yaml`.
        trt: TensorRT's version; None = the newest that has a DLA on the target.
        precision: `fp16` or `int8`.
        off: names of rewrites that are not wanted.
        sizes: whole input shapes by name, for networks with open dimensions.
        batch: what an open batch becomes.

    Raises:
        ConfigError: unknown target, or not a version.
    """
    applied: list[Applied] = []
    if "static_shapes" not in off and open_inputs(graph):
        names = open_inputs(graph)
        graph = static_shapes(graph, sizes, batch)
        left = open_inputs(graph)
        if fixed := tuple(name for name in names if name not in left):
            applied.append(Applied("static_shapes", "dimensions of inputs fixed", fixed))
    placement = check(graph, target, trt, precision)
    for _ in range(_ROUNDS if placement.verdict != "no-dla" else 0):
        before = len(applied)
        for name in ("gemm_to_conv", *RULES):
            if name in off:
                continue
            changed, nodes = apply(name, graph, placement)
            if not nodes:
                continue
            better = check(changed, target, trt, precision)
            if _better(better, placement):
                graph, placement = changed, better
                text = RULES[name][1] if name in RULES else "matrix products as convolutions"
                applied.append(Applied(name, text, tuple(node.name for node in nodes)))
        if len(applied) == before:
            break
    return Lifted(graph, placement, tuple(applied))


def apply(name: str, graph: Graph, placement: Placement) -> tuple[Graph, tuple[Node, ...]]:
    """Do one rewrite where the placement asks for it; returns what was replaced."""
    wanted = _wanted(name, graph, placement)
    if not wanted:
        return graph, ()
    shapes = shape_inference.infer(graph)
    if name == "gemm_to_conv":
        return gemm_to_conv(graph, shapes)
    return rewrite_nodes(graph, shapes, wanted, RULES[name][0])


def _wanted(name: str, graph: Graph, placement: Placement) -> frozenset[Node]:
    """The nodes that a rewrite may touch."""
    pairs = list(zip(graph.nodes, placement.layers, strict=True))
    if name == "fold_batchnorm":  # nothing falls back; it saves a layer and a scale to calibrate
        return frozenset(node for node, _ in pairs if node.op in ("Conv", "BatchNormalization"))
    if name == "gemm_to_conv":  # a whole chain changes, of which only a part falls back
        products = frozenset(node for node, _ in pairs if node.op in ("Gemm", "MatMul"))
        return products if placement.gpu_compute else frozenset()
    if name == "channel_shuffle":  # its three layers are only together what can be replaced
        return frozenset(
            node for node, layer in pairs if node.op == "Reshape" and layer.device == "gpu"
        )
    wanted = {node for node, layer in pairs if layer.rewrite == name}
    if name == "fold_pad":
        wanted |= {reader for node in wanted for reader in graph.consumers.get(node.outputs[0], ())}
    return frozenset(wanted)


def _better(after: Placement, before: Placement) -> bool:
    """Fewer compute layers on the GPU with no more work there; else nothing worse and something better."""
    new, old = _burden(after), _burden(before)
    if new[0] < old[0]:
        return new[1] <= old[1]
    return new != old and all(a <= b for a, b in zip(new, old, strict=True))


def _burden(placement: Placement) -> tuple[int, int, int, int]:
    """Compute layers on the GPU, their FLOPs, loadables, layers of any kind."""
    gpu = placement.gpu_compute
    left = len(placement.layers) - len(placement.on("folded"))
    return len(gpu), sum(layer.flops for layer in gpu), len(placement.loadables), left
