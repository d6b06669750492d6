"""What a placement says: every layer with its device and reason, and the sums over them."""

from __future__ import annotations

from dataclasses import dataclass

_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True, slots=True)
class LayerPlacement:
    """Where one layer runs.

    Attributes:
        name: of the ONNX node.
        op: its operator.
        device: `dla`, `gpu`, or `folded` when nothing of it is left in the engine.
        reason: why it is there; empty for a layer that fits the DLA.
        fix: what would bring it to the DLA, in words; empty when nothing would.
        rewrite: the pass that does that, empty when there is none.
        source: the page that states the limit.
        flops: of one run.
        weights_bytes: in the engine's precision.
        loadable: index of its loadable, None off the DLA.
        moves_only: it only reshapes, transposes or converts; no compute layer.
    """

    name: str
    op: str
    device: str
    reason: str = ""
    fix: str = ""
    rewrite: str = ""
    source: str = ""
    flops: int = 0
    weights_bytes: int = 0
    loadable: int | None = None
    moves_only: bool = False


@dataclass(frozen=True, slots=True)
class Loadable:
    """A group of layers that the DLA runs in one go.

    `tensors_bytes` are the tensors that stay inside it.
    """

    first: str
    last: str
    layers: int
    weights_bytes: int
    tensors_bytes: int


@dataclass(frozen=True, slots=True)
class Placement:
    """The whole network on one target.

    Attributes:
        target, trt, precision: what it was placed for.
        verdict: `full` (no compute layer on the GPU), `partial`, `none` (nothing fits), or `no-dla`
            (the board or the TensorRT has none).
        reason: the verdict in words.
        hint: what would help, empty when nothing is to be done.
        source: the page behind a `no-dla`.
        layers: in the order of the graph.
        loadables: in an order in which they can run.
        crossings: names of tensors that pass between DLA and GPU inside the network.
        notes: what else matters, in words.
    """

    target: str
    trt: str
    precision: str
    verdict: str
    reason: str
    hint: str
    source: str
    layers: tuple[LayerPlacement, ...]
    loadables: tuple[Loadable, ...]
    crossings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def flops_share(self) -> float:
        """Part of the FLOPs that the DLA does."""
        return _share([(layer.flops, layer.device == "dla") for layer in self.layers])

    @property
    def conv_flops_share(self) -> float:
        """Part of the convolutions' FLOPs that the DLA does."""
        convs = [layer for layer in self.layers if layer.op in _CONVOLUTIONS]
        return _share([(layer.flops, layer.device == "dla") for layer in convs])

    @property
    def layers_share(self) -> float:
        """Part of the layers, those that are folded left out."""
        left = [layer for layer in self.layers if layer.device != "folded"]
        return _share([(1, layer.device == "dla") for layer in left])

    @property
    def weights_share(self) -> float:
        """Part of the weights' bytes."""
        return _share([(layer.weights_bytes, layer.device == "dla") for layer in self.layers])

    def on(self, device: str) -> tuple[LayerPlacement, ...]:
        """Layers of one device."""
        return tuple(layer for layer in self.layers if layer.device == device)

    @property
    def gpu_compute(self) -> tuple[LayerPlacement, ...]:
        """Layers on the GPU that do more than move data: what `strict` forbids."""
        return tuple(layer for layer in self.on("gpu") if not layer.moves_only)


def _share(items: list[tuple[int, bool]]) -> float:
    total = sum(count for count, _ in items)
    return sum(count for count, wanted in items if wanted) / total if total else 0.0
