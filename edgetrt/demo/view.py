"""The live terminal view of the demo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from edgetrt.demo.observer import Observer
    from edgetrt.wire import PipelineReport


def render(seen: Observer, frames: int | None, source: str) -> Panel:
    """Draw the present state as an outsider sees it over MQTT."""
    report = seen.health.pipelines[0] if seen.health and seen.health.pipelines else None
    return Panel(
        Group(_headline(seen, report), _progress(seen, frames), Text(), _stages(report)),
        title="edgetrt demo",
        subtitle=source,
        width=78,
    )


def _headline(seen: Observer, report: PipelineReport | None) -> Table:
    grid = Table.grid(expand=True)
    values = (
        ("people now", str(seen.now)),
        ("frames/s", f"{report.fps:.1f}" if report else "…"),
        ("received", str(seen.results)),
        ("published", str(seen.health.agent.published) if seen.health else "…"),
        ("dropped", str(report.counters.dropped + report.counters.refused) if report else "0"),
    )
    for _ in values:
        grid.add_column(justify="center")
    grid.add_row(*(Text(value, style="bold cyan") for _, value in values))
    grid.add_row(*(Text(name, style="dim") for name, _ in values))
    return grid


def _progress(seen: Observer, frames: int | None) -> ProgressBar:
    return ProgressBar(total=frames, completed=seen.results, pulse=frames is None)


def _stages(report: PipelineReport | None) -> Table:
    table = Table(box=None, expand=True, header_style="dim")
    table.add_column("stage")
    table.add_column("p50 ms", justify="right")
    table.add_column("p99 ms", justify="right")
    if report is not None:
        for name, stats in report.stages.items():
            table.add_row(name, f"{stats.p50_ms:.2f}", f"{stats.p99_ms:.2f}")
        if report.latency is not None:
            style = "bold"
            table.add_row(
                Text("latency", style),
                Text(f"{report.latency.p50_ms:.2f}", style),
                Text(f"{report.latency.p99_ms:.2f}", style),
            )
    return table
