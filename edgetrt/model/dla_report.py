"""A placement for people and programs: one JSON-able dict, and a page that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgetrt.model.head_split import HeadSplit
    from edgetrt.model.placement import LayerPlacement, Placement
    from edgetrt.model.rewrite import Applied

_COLOURS = {"dla": "#76b900", "gpu": "#d9822b", "folded": "#c8ccd0"}
_TITLES = {"dla": "DLA", "gpu": "GPU", "folded": "folded away"}
_WIDTH, _BAR, _GAP = 1000, 44, 26

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>DLA placement of {model}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
  color: #1d2125; background: #fff }}
h1 {{ font-size: 1.4rem; margin-bottom: 0 }}
.verdict {{ font-size: 1.1rem; margin: .3rem 0 1rem }}
svg {{ width: 100%; height: auto }} svg text {{ font-size: 13px; fill: #1d2125 }}
svg rect:hover {{ stroke: #1d2125; stroke-width: 1.5 }}
dl {{ display: flex; flex-wrap: wrap; gap: .5rem 2rem }} dt {{ color: #5b6470 }}
dd {{ margin: 0; font-weight: 600 }}
table {{ border-collapse: collapse; width: 100%; font-size: 13px }}
td, th {{ text-align: left; padding: .25rem .5rem; border-bottom: 1px solid #e2e5e9;
  overflow-wrap: anywhere; vertical-align: top }}
tr.gpu td:nth-child(3) {{ color: #a85a0c; font-weight: 600 }}
@media (prefers-color-scheme: dark) {{ body {{ background: #16191d; color: #e6e9ec }}
  svg text {{ fill: #e6e9ec }} td, th {{ border-color: #343a42 }} dt {{ color: #9aa4af }} }}
</style></head><body>
<h1>{model} on {target}, TensorRT {trt}, {precision}</h1>
<p class="verdict"><b>{verdict}</b>: {reason}</p>
{hint}<dl>{numbers}</dl>
{picture}
{notes}<table><thead><tr><th>layer</th><th>operator</th><th>device</th><th>MFLOP</th><th>reason</th>
<th>fix</th></tr></thead><tbody>
{rows}
</tbody></table></body></html>
"""


def to_dict(
    placement: Placement,
    model: str,
    applied: Sequence[Applied] = (),
    split: HeadSplit | None = None,
) -> dict[str, Any]:
    """The report that `edgetrt check --json` prints.

    Args:
        placement: of the network as it would be built.
        model: its file.
        applied: rewrites that were done before it was placed.
        split: where to cut it, when its decode stays on the GPU.
    """
    return {
        "model": model,
        "target": placement.target,
        "trt": placement.trt,
        "precision": placement.precision,
        "verdict": placement.verdict,
        "reason": placement.reason,
        "hint": placement.hint,
        "source": placement.source,
        "dla": {
            "flops_share": placement.flops_share,
            "conv_flops_share": placement.conv_flops_share,
            "layers": len(placement.on("dla")),
            "layers_share": placement.layers_share,
            "weights_share": placement.weights_share,
            "weights_bytes": sum(item.weights_bytes for item in placement.loadables),
            "loadables": len(placement.loadables),
            "crossings": len(placement.crossings),
        },
        "gpu": {
            "layers": len(placement.on("gpu")),
            "compute_layers": len(placement.gpu_compute),
        },
        "layers": [_layer(layer) for layer in placement.layers],
        "rewrites": [asdict(step) for step in applied],
        "head_split": None if split is None else asdict(split),
        "notes": list(placement.notes),
    }


def _layer(layer: LayerPlacement) -> dict[str, Any]:
    return {
        "name": layer.name,
        "op": layer.op,
        "device": layer.device,
        "reason": layer.reason,
        "fix": layer.fix,
        "rewrite": layer.rewrite,
        "source": layer.source,
        "flops": layer.flops,
        "loadable": layer.loadable,
    }


def numbers(placement: Placement) -> list[tuple[str, str]]:
    """The sums of a report with their names."""
    return [
        ("FLOPs on the DLA", f"{placement.flops_share:.2%}"),
        ("convolution FLOPs", f"{placement.conv_flops_share:.2%}"),
        ("layers", f"{placement.layers_share:.2%}"),
        ("weights", f"{placement.weights_share:.2%}"),
        ("loadables (16 per core)", str(len(placement.loadables))),
        ("crossings", str(len(placement.crossings))),
    ]


def to_html(
    placement: Placement,
    model: str,
    applied: Sequence[Applied] = (),
    split: HeadSplit | None = None,
) -> str:
    """A self-contained page: verdict, a bar of all layers by device, the table with the reasons."""
    hint = f"<p>{escape(placement.hint)}</p>" if placement.hint else ""
    steps = [*map(str, applied), *([str(split)] if split else []), *placement.notes]
    notes = "".join(f"<p>{escape(note)}</p>" for note in steps)
    sums = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in numbers(placement)
    )
    return _PAGE.format(
        model=escape(model),
        target=escape(placement.target),
        trt=escape(placement.trt),
        precision=placement.precision.upper(),
        verdict=placement.verdict,
        reason=escape(placement.reason),
        hint=hint,
        numbers=sums,
        picture=picture(placement),
        notes=notes,
        rows="\n".join(_row(layer) for layer in placement.layers if layer.device != "folded"),
    )


def picture(placement: Placement) -> str:
    """Two bars as inline SVG: every layer of equal width, and by its share of the FLOPs."""
    left = [layer for layer in placement.layers if layer.device != "folded"]
    bars = (
        ("layers in the order of the network", [1.0] * len(left)),
        ("the same by FLOPs", [float(layer.flops) for layer in left]),
    )
    parts, top = [], 0
    for title, weights in bars:
        parts.append(f'<text x="0" y="{top + 16}">{title}</text>')
        parts += _bar(left, weights, top + 22)
        top += 22 + _BAR + _GAP
    for index, device in enumerate(("dla", "gpu")):
        x = index * 90
        parts.append(f'<rect x="{x}" y="{top}" width="14" height="14" fill="{_COLOURS[device]}"/>')
        parts.append(f'<text x="{x + 20}" y="{top + 12}">{_TITLES[device]}</text>')
    body = "".join(parts)
    return f'<svg viewBox="0 0 {_WIDTH} {top + 20}" role="img" aria-label="placement">{body}</svg>'


def _bar(layers: list[LayerPlacement], weights: list[float], y: int) -> list[str]:
    total = sum(weights) or 1.0
    parts, x = [], 0.0
    for layer, weight in zip(layers, weights, strict=True):
        width = _WIDTH * weight / total
        if width > 0:
            parts.append(
                f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{_BAR}" '
                f'fill="{_COLOURS[layer.device]}"><title>{escape(_tip(layer))}</title></rect>'
            )
        x += width
    return parts


def _tip(layer: LayerPlacement) -> str:
    where = _TITLES[layer.device]
    if layer.loadable is not None:
        where += f", loadable {layer.loadable}"
    lines = [f"{layer.name} ({layer.op})", f"{where}, {layer.flops / 1e6:.2f} MFLOP"]
    return "\n".join([*lines, *filter(None, (layer.reason, layer.fix))])


def _row(layer: LayerPlacement) -> str:
    cells = (
        escape(layer.name),
        escape(layer.op),
        _TITLES[layer.device],
        f"{layer.flops / 1e6:.2f}",
        f'<a href="{escape(layer.source)}">{escape(layer.reason)}</a>'
        if layer.source
        else escape(layer.reason),
        escape(layer.fix),
    )
    return f'<tr class="{layer.device}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
