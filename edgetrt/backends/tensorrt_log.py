"""What TensorRT's log says about placement, faults and progress. Pure.

The vocabulary is collected from issues and tutorials of TensorRT 7 to 11; lines that match nothing
are left alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgetrt.engine.memory import says_out_of_memory
from edgetrt.types import BuiltLayer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgetrt.engine.events import LogLine

_DLA = re.compile(r"\[DlaLayer\]\s*(?P<name>.+?),?\s*$")
_GPU = re.compile(r"\[GpuLayer\]\s*(?:(?P<kind>[A-Z][A-Z0-9_]*): )?(?P<name>.+?),?\s*$")

_REASONS = tuple(
    re.compile(pattern)
    for pattern in (
        r"^(?:Default DLA is enabled but )?layer (?P<layer>.+?)"
        r" (?P<why>is not supported on DLA), falling back to GPU",
        r"^Layer '(?P<layer>.+?)' \([A-Z0-9_]+\): (?P<why>.+?)\.? Switching this layer's device type",
        r"^DLA Layer (?P<layer>.+?) (?P<why>does not support .+?)\.?$",
        r"^(?P<why>DLA only supports .+?)\. Switching (?P<layer>.+?) device type to GPU",
        r"^(?P<why>DLA supports only \d+ subgraphs per DLA core)\. Switching to GPU for layer"
        r" (?P<layer>.+?)\.?$",
        r"^(?P<layer>\S.*?): (?P<why>DLA cores do not support .+?)\.?$",
        r"^(?P<layer>\S.*?) (?P<why>cannot run in INT8 mode due to missing scale and zero point)",
        r"^(?P<layer>\S.*?): (?P<why>CBUF validation failed.*?)\.?$",
    )
)
_NODE = re.compile(r"While parsing node number (?P<index>\d+) \[(?P<op>\w+)")
_STEPS = (
    (re.compile(r"Local timing cache in use|Global timing cache in use"), "timing kernels"),
    (re.compile(r"Graph optimization time|Applying generic optimizations"), "optimising the graph"),
    (re.compile(r"Layers [Rr]unning on (?:DLA|GPU)"), "placing layers"),
    (re.compile(r"Autotuning format combination|Tactic Name:|Autotuning op"), "timing kernels"),
    (re.compile(r"Total Activation Memory|Started assigning block shifts"), "planning memory"),
    (re.compile(r"Engine generation completed|Engine built in"), "writing the plan"),
)


def placement(lines: Iterable[LogLine]) -> tuple[BuiltLayer, ...]:
    """Layers as the builder listed them with their devices; empty when it did not (no DLA)."""
    layers: dict[tuple[str, str], BuiltLayer] = {}
    for line in lines:
        if found := _DLA.search(line.text):
            layer = BuiltLayer(found["name"].strip(), "DLA", "LOADABLE")
        elif found := _GPU.search(line.text):
            layer = BuiltLayer(found["name"].strip(), "GPU", found["kind"] or "UNKNOWN")
        else:
            continue
        layers[layer.device, layer.name] = layer
    return tuple(layers.values())


def reasons(lines: Iterable[LogLine]) -> dict[str, str]:
    """Why layers left the DLA, by layer name; the first reason given for a layer stays."""
    out: dict[str, str] = {}
    for line in lines:
        for pattern in _REASONS:
            if found := pattern.search(line.text):
                out.setdefault(found["layer"].strip(), found["why"].strip())
                break
    return out


def failed_nodes(lines: Iterable[LogLine]) -> dict[int, str]:
    """Operators by node index of the nodes that the parser gave up on (how 8.x names them)."""
    found = (_NODE.search(line.text) for line in lines)
    return {int(match["index"]): match["op"] for match in found if match}


def out_of_memory(lines: Iterable[LogLine]) -> bool:
    """True when a warning or error says that memory ran out."""
    return any(
        line.severity in {"error", "warning"} and says_out_of_memory(line.text) for line in lines
    )


def errors(lines: Iterable[LogLine], most: int = 5) -> list[str]:
    """The last different error lines, oldest first."""
    texts = dict.fromkeys(line.text for line in lines if line.severity == "error")
    return list(texts)[-most:]


def step(text: str) -> str | None:
    """What the builder is doing, told by a log line; for versions without a progress monitor."""
    return next((name for pattern, name in _STEPS if pattern.search(text)), None)
