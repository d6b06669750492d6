"""The report of a deployment: for the terminal, as JSON, as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from edgetrt.cli.output import out, print_json, write_page

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from edgetrt.deploy.deployment import Deployment
    from edgetrt.engine.report import Placed, Report


_STATES = {"dry-run": "in the cache and not put to work"}
"""What a state of `Deployment` is called in a sentence, where its own word is not one."""


def tell(done: Deployment, html: Path | None, json: bool) -> None:
    """Write the page when one is wanted, then print the report.

    Raises:
        ConfigError: the page cannot be written.
    """
    if json:
        print_json(done)
    else:
        show(done, out)
    if html is not None:
        from edgetrt.engine.page import page

        write_page(html, page(done.report))


def show(done: Deployment, console: Console) -> None:
    """Print everything a person wants to know, the verdict first."""
    report, state = done.report, _STATES.get(done.state, done.state)
    console.print(
        f"[bold]{report.name}[/]: {report.precision} on {report.toolchain}, {state}"
        f" (cache {done.cache}, {done.elapsed_s:.1f} s)  [dim]{report.engine[:12]}[/]",
        highlight=False,
    )
    if done.detail:
        console.print(f"  {escape(done.detail)}", highlight=False)
    console.print(f"  {_accuracy(report)}; {report.bytes / 1e6:.2f} MB", highlight=False)
    console.print(_precisions(report))
    if report.placement is not None:
        console.print(_placement(report.placement), highlight=False)
    console.print(_speed(report))
    for change in report.rewrites:
        console.print(f"  changed: {escape(change)}", highlight=False)
    for warning in report.warnings:
        console.print(f"  [yellow]warning:[/] {escape(warning)}", highlight=False)
    for advice in report.advice:
        console.print(f"  [cyan]advice:[/] {escape(advice)}", highlight=False)


def _accuracy(report: Report) -> str:
    told = report.accuracy
    if told is None:
        return "accuracy not measured: there were no frames"
    mark = "[green]passed[/]" if told.passed else "[red]failed[/]"
    return (
        f"accuracy {mark}: {told.measure} {told.value:.4f} against FP32 on {told.frames} frames, "
        f"at least {1 - told.limit:.4f} was asked for"
    )


def _precisions(report: Report) -> Table:
    table = Table(title=f"Precision: {escape(report.reason)}", title_justify="left", box=None)
    table.add_column("")
    for name in ("precision", "agreement", "loss", "ms", "size", "layers", "kept higher"):
        table.add_column(name, justify="right")
    for tried in report.tried:
        table.add_row(
            "→" if tried.taken else "",
            tried.precision,
            "–" if tried.value is None else f"{tried.value:.4f}",
            "–" if tried.loss is None else f"{tried.loss:.4f}",
            "–" if tried.latency_ms is None else f"{tried.latency_ms:.2f}",
            f"{tried.bytes / 1e6:.2f} MB",
            str(tried.layers or ""),
            str(len(tried.kept) or ""),
        )
    return table


def _placement(placed: Placed) -> str:
    left = [layer for layer in placed.layers if layer["device"] == "gpu"]
    reasons = dict.fromkeys(layer["reason"] for layer in left)
    told = "".join(f"\n    GPU: {escape(reason)}" for reason in list(reasons)[:5])
    compared, score = placed.compared, ""
    if compared is not None:
        same = f"{compared.agreed} of {compared.compared} layers"
        score = f"\n    the builder ({compared.source}) agrees in {same}"
    return (
        f"Placement on {placed.target}, TensorRT {placed.trt}: {placed.verdict}; "
        f"{placed.flops_share:.1%} of the work on the DLA in {placed.loadables} loadables, "
        f"{placed.crossings} crossings, {len(left)} layers on the GPU{told}{score}"
    )


def _speed(report: Report) -> Table:
    table = Table(title="Speed", title_justify="left", box=None)
    for name in ("", "p50 ms", "p99 ms", "per second"):
        table.add_column(name, justify="right" if name else "left")
    if report.latency_ms is None:
        table.add_row("engine", "not run here", "", "")
    else:
        table.add_row(
            "engine alone",
            f"{report.latency_ms['median']:.2f}",
            f"{report.latency_ms['p99']:.2f}",
            f"{report.throughput_qps:.1f}",
        )
    for stage, spent in report.waterfall_ms.items():
        table.add_row(f"  {stage}", f"{spent:.2f}", "", "")
    return table
