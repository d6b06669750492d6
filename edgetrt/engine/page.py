"""The report of a deployment as a self-contained page with pictures: no scripts, no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgetrt.engine.report import Compared, Placed, Report, Tried

WIDTH, ROW = 720, 26
LABEL = 150
DEVICES = {"dla": "#76b900", "gpu": "#d9772b", "folded": "#c8ccd0"}
STAGES = ("#4c78a8", "#72b7b2", "#d9772b", "#54a24b", "#b279a2", "#9d755d")

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .3rem .6rem; text-align: left; }
th { border-bottom: 1px solid #8888; } td { border-bottom: 1px solid #8883; } .n { text-align: right; }
svg { width: 100%; height: auto; } svg text { font: 13px system-ui, sans-serif; fill: currentColor; }
td { vertical-align: top; } .what { white-space: nowrap; } details { margin: .2rem 0; }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem; } dt { opacity: .7; }
dd { margin: 0; font-weight: 600; }
.ok { color: #3a8f3a; } .bad { color: #c23b3b; } code { font-size: .85em; overflow-wrap: anywhere; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 1em; }
@media (prefers-color-scheme: dark) { body { background: #16191d; color: #e6e9ec; } .ok { color: #7cc77c; }
  .bad { color: #ff8a80; } }
"""


def page(report: Report) -> str:
    """The whole page as HTML."""
    title = f"{report.name}: {report.precision} on {report.toolchain}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _paragraph(
            f"{escape(report.model)} on {escape(report.device)}; engine "
            f"<code>{escape(report.engine[:16])}</code>, "
            f"{report.bytes / 1e6:.2f} MB, made in {report.build_s:.1f} s."
        ),
        _paragraph(escape(report.reason)),
        _numbers(report),
        "<h2>Accuracy</h2>",
        _accuracy(report),
        "<h2>Precisions that were tried</h2>",
        _tried(report.tried),
        "<h2>A frame's time</h2>",
        _time(report),
    ]
    if report.placement is not None:
        parts += ["<h2>Placement</h2>", _placement(report.placement)]
    parts.append(_list("What was changed in the network", report.rewrites))
    parts.append(_list("What makes this doubtful", report.warnings))
    parts.append(_list("What would help", report.advice))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _numbers(report: Report) -> str:
    """What people look for first."""
    told = {"precision": report.precision, "size": f"{report.bytes / 1e6:.2f} MB"}
    if report.accuracy is not None:
        told[report.accuracy.measure] = f"{report.accuracy.value:.4f}"
    if report.latency_ms is not None:
        told["median"] = f"{report.latency_ms['median']:.2f} ms"
        told["throughput"] = f"{report.throughput_qps:.1f} / s"
    if report.placement is not None:
        told["of the work on the DLA"] = f"{report.placement.flops_share:.1%}"
    cells = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in told.items())
    return f"<dl>{cells}</dl>"


def _list(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return f"<h2>{title}</h2><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _accuracy(report: Report) -> str:
    """The verdict and a bar per class."""
    told = report.accuracy
    if told is None:
        return _paragraph("Not measured: there were no frames.")
    mark = '<b class="ok">passed</b>' if told.passed else '<b class="bad">failed</b>'
    text = (
        f"{mark}: {told.measure} {told.value:.4f} against ONNX Runtime FP32 on {told.frames} frames; "
        f"at least {1 - told.limit:.4f} was asked for."
    )
    rows = [(name, value, f"{value:.4f}") for name, value in told.per_class.items()]
    return _paragraph(text) + _bars(rows)


def _tried(tried: Sequence[Tried]) -> str:
    head = "".join(
        f"<th>{name}</th>"
        for name in (
            "",
            "precision",
            "agreement",
            "ms",
            "size",
            "layers",
            "left in higher precision",
        )
    )
    return f"<table><tr>{head}</tr>{''.join(map(_tried_row, tried))}</table>"


def _tried_row(tried: Tried) -> str:
    rows = "<br>".join(
        f"<code>{escape(str(layer['node']))}</code> {escape(str(layer['reason']))}"
        for layer in tried.kept
    )
    kept = f"<details><summary>{len(tried.kept)} layers</summary>{rows}</details>" if rows else ""
    everything = (
        f"<br>everything quantized: {tried.everything:.4f}" if tried.everything is not None else ""
    )
    agreement = "–" if tried.value is None else f"{tried.value:.4f}"
    latency = "–" if tried.latency_ms is None else f"{tried.latency_ms:.2f}"
    return (
        f"<tr><td>{'→' if tried.taken else ''}</td><td>{tried.precision}</td>"
        f"<td>{agreement}{everything}</td><td class=n>{latency}</td>"
        f"<td class='n what'>{tried.bytes / 1e6:.2f} MB</td><td class=n>{tried.layers or ''}</td>"
        f"<td>{kept}</td></tr>"
    )


def _time(report: Report) -> str:
    """A waterfall: each stage begins where the one before it ended."""
    parts = []
    if report.latency_ms is not None:
        parts.append(
            _paragraph(
                f"The engine alone: median {report.latency_ms['median']:.2f} ms, "
                f"p99 {report.latency_ms['p99']:.2f} ms, {report.throughput_qps:.1f} per second."
            )
        )
    if report.waterfall_ms:
        parts.append(_waterfall(report.waterfall_ms))
    return "".join(parts) or _paragraph("Not run on this machine.")


def _waterfall(stages: dict[str, float]) -> str:
    total = sum(stages.values()) or 1.0
    room = WIDTH - LABEL - 90
    shapes, at = [], 0.0
    for index, (name, spent) in enumerate(stages.items()):
        x, y, width = LABEL + at / total * room, index * ROW, max(1.0, spent / total * room)
        shapes.append(
            f'<text x="0" y="{y + 17}">{escape(name)}</text>'
            f'<rect x="{x:.1f}" y="{y + 4}" width="{width:.1f}" height="18" rx="2" '
            f'fill="{STAGES[index % len(STAGES)]}"/>'
            f'<text x="{x + width + 6:.1f}" y="{y + 17}">{spent:.2f} ms</text>'
        )
        at += spent
    return _svg("time of a frame by stage", len(stages) * ROW, shapes)


def _placement(placed: Placed) -> str:
    """One coloured piece per layer in the order of the network, and the reasons of those that fall back."""
    layers = [layer for layer in placed.layers if layer["device"] != "folded"]
    width = WIDTH / max(1, len(layers))
    pieces = [
        f'<rect x="{i * width:.2f}" y="0" width="{width + 0.3:.2f}" height="40" '
        f'fill="{DEVICES[layer["device"]]}"><title>{escape(layer["name"])} ({escape(layer["op"])}): '
        f"{layer['device']} {escape(layer['reason'])}</title></rect>"
        for i, layer in enumerate(layers)
    ]
    keys = "".join(
        f'<span class=key style="background:{DEVICES[device]}"></span>{device.upper()}'
        for device in ("dla", "gpu")
    )
    text = (
        f"{placed.target}, TensorRT {placed.trt}: {placed.verdict}. {placed.flops_share:.1%} of the work "
        f"on the DLA in {placed.loadables} loadables, {placed.crossings} crossings."
    )
    drawn = _svg("layers by device", 40, pieces)
    return (
        _paragraph(escape(text) + keys)
        + drawn
        + _compared(placed.compared)
        + _fallbacks([layer for layer in layers if layer["device"] == "gpu"])
    )


def _compared(told: Compared | None) -> str:
    """How well the placement foretold the builder's."""
    if told is None:
        return ""
    differing = "".join(f"<li>{escape(line)}</li>" for line in told.differing)
    return _paragraph(
        f"The builder ({escape(told.source)}) put {told.agreed} of {told.compared} layers where this "
        f"placement has them; it fused away or renamed {len(told.missing)}."
    ) + (f"<ul>{differing}</ul>" if differing else "")


def _fallbacks(layers: Sequence[dict[str, str]]) -> str:
    """A row per reason with the layers that have it."""
    if not layers:
        return ""
    names: dict[tuple[str, str], list[str]] = {}
    for layer in layers:
        names.setdefault((layer["reason"], layer["fix"]), []).append(
            f"<code>{escape(layer['name'])}</code> ({escape(layer['op'])})"
        )
    rows = "".join(
        f"<tr><td>{', '.join(found)}</td><td>{escape(reason)}</td><td>{escape(fix)}</td></tr>"
        for (reason, fix), found in names.items()
    )
    return f"<table><tr><th>on the GPU</th><th>why</th><th>what would help</th></tr>{rows}</table>"


def _bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """A bar per row, values 0..1."""
    room = WIDTH - LABEL - 90
    shapes = [
        f'<text x="0" y="{i * ROW + 17}">{escape(name)}</text>'
        f'<rect x="{LABEL}" y="{i * ROW + 4}" width="{max(1.0, value * room):.1f}" height="18" '
        f'rx="2" fill="{DEVICES["dla"]}"/>'
        f'<text x="{LABEL + value * room + 6:.1f}" y="{i * ROW + 17}">{text}</text>'
        for i, (name, value, text) in enumerate(rows)
    ]
    return _svg("agreement by class", len(rows) * ROW, shapes) if rows else ""


def _svg(title: str, height: int, shapes: Iterable[str]) -> str:
    body = "".join(shapes)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">{body}</svg>'


def _paragraph(text: str) -> str:
    return f"<p>{text}</p>"
