"""Where a finished engine runs, and how well that was foretold. Pure.

Reads the inspector's JSON into a placement and compares it with the static checker's. TensorRT 11
renamed parts of the JSON and 8.x leaves parts out, so that every key is optional here.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgetrt.types import BuiltLayer

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

Device = Literal["DLA", "GPU"]
MOVES = frozenset({"REFORMAT", "NOOP", "NO_OP", "SHUFFLE", "CONSTANT", "CAST", "COPY"})
"""Kinds that move or convert data and compute nothing; `strict` allows them on the GPU."""

_MOVE_NAME = re.compile(
    r"^Reformatting CopyNode|^reformat|(?: to nvm| from nvm| copy finish)$|^\(?Unnamed.*\[Reformat\]",
    re.IGNORECASE,
)
_FOREIGN = re.compile(r"^\{ForeignNode\[(?P<first>.*?)(?:\.\.\.(?P<last>.*))?\]\}$")
_ONNX = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_TOKENS = re.compile(r" \+ |, | \|\| |[()]")


@dataclass(frozen=True)
class Comparison:
    """How well the static placement foretold the builder's.

    Attributes:
        agreed: nodes on the device that was foretold.
        compared: nodes that both of them name.
        missing: nodes that the builder folded away or renamed.
        differing: `(node, foretold, built)`.
    """

    agreed: int
    compared: int
    missing: tuple[str, ...]
    differing: tuple[tuple[str, Device, Device], ...]


def parse_inspector(text: str, loadables: Collection[str] = ()) -> tuple[BuiltLayer, ...]:
    """Layers of an engine from `EngineInspector.get_engine_information(JSON)`.

    `{ForeignNode[…]}` alone proves nothing: fused GPU code is called so too. A layer is on the DLA when
    its type says so, or when the build's log listed it as a loadable.

    Args:
        text: the inspector's answer.
        loadables: names that the log listed under the DLA.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    found = data.get("Layers") if isinstance(data, dict) else data
    if not isinstance(found, list):
        return ()
    return tuple(layer for item in found if (layer := _layer(item, loadables)) is not None)


def _layer(item: Any, loadables: Collection[str]) -> BuiltLayer | None:
    """One entry: an object when the build was DETAILED, else a bare name."""
    if isinstance(item, str):
        item = {"Name": item}
    if not isinstance(item, dict) or not isinstance(item.get("Name"), str):
        return None
    name = item["Name"]
    kind = str(item.get("LayerType") or "UNKNOWN").upper()
    if _MOVE_NAME.search(name):
        kind = "REFORMAT"
    dla = "DLA" in kind or name in loadables
    nodes = tuple(dict.fromkeys(_ONNX.findall(str(item.get("Metadata") or ""))))
    return BuiltLayer(name, "DLA" if dla else "GPU", "LOADABLE" if dla else kind, nodes)


def on_gpu(layers: Sequence[BuiltLayer]) -> tuple[BuiltLayer, ...]:
    """Layers that compute on the GPU: what `strict` does not allow."""
    return tuple(
        layer
        for layer in layers
        if layer.device == "GPU" and layer.kind not in MOVES and not _MOVE_NAME.search(layer.name)
    )


def loadables(layers: Sequence[BuiltLayer]) -> int:
    """How many loadables the engine puts on its DLA core, of the 16 that one core holds."""
    return sum(layer.device == "DLA" for layer in layers)


def merge(
    inspected: Sequence[BuiltLayer], logged: Sequence[BuiltLayer]
) -> tuple[tuple[BuiltLayer, ...], tuple[str, ...]]:
    """The better of two placements, and a warning where they contradict each other."""
    if not inspected or not logged:
        return tuple(inspected or logged), ()
    by_name = {layer.name: layer.device for layer in inspected}
    contradicting = [
        f"{layer.name}: the log says {layer.device}, the engine {by_name[layer.name]}"
        for layer in logged
        if by_name.get(layer.name, layer.device) != layer.device
    ]
    lost = {layer.name for layer in logged if layer.device == "DLA"} - set(by_name)
    contradicting += [f"{name}: a loadable in the log, not in the engine" for name in sorted(lost)]
    return tuple(inspected), tuple(contradicting)


def compare(expected: Mapping[str, Device], layers: Sequence[BuiltLayer]) -> Comparison:
    """Score a static placement, in network order by node name, against a finished engine."""
    built = _by_node(tuple(expected), layers)
    both = [name for name in expected if name in built]
    differing = tuple(
        (name, expected[name], built[name]) for name in both if expected[name] != built[name]
    )
    missing = tuple(name for name in expected if name not in built)
    return Comparison(len(both) - len(differing), len(both), missing, differing)


def _by_node(order: Sequence[str], layers: Sequence[BuiltLayer]) -> dict[str, Device]:
    """Device by node name; a range `{ForeignNode[first...last]}` claims what nothing else names."""
    known = set(order)
    out: dict[str, Device] = {}
    ranges: list[tuple[int, int, Device]] = []
    for layer in layers:
        names = layer.nodes or tuple(_TOKENS.split(layer.name))
        if found := _FOREIGN.match(layer.name):
            ends = found["first"], found["last"] or found["first"]
            if not layer.nodes and ends[0] in known and ends[1] in known:
                ranges.append((order.index(ends[0]), order.index(ends[1]), layer.device))
                continue
            names = layer.nodes or ends
        for name in names:
            if name in known:
                out.setdefault(name, layer.device)
    for first, last, device in ranges:
        for name in order[first : last + 1]:
            out.setdefault(name, device)
    return out
