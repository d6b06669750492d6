"""`edgetrt status`: what the agent on this machine says about itself and its pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgetrt.agent.status import Status
    from edgetrt.types import BoardState
    from edgetrt.wire import UpdateReport

MARKS = {"ok": "[green]ok[/]", "degraded": "[yellow]degraded[/]", "failing": "[red]failing[/]"}
REFRESH_S = 1.0


def status(
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of the link to the runtime; default /run/edgetrt.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say how this device does; exits with 1 unless all is well."""
    from edgetrt import app
    from edgetrt.agent.status import read
    from edgetrt.cli import output

    folder = run_dir or app.run_dir()
    if watch and not json:
        _watch(folder)
        return
    found = read(folder)
    age_s = _silent_s(found)
    well = age_s is None and found.health.state == "ok"
    if json:
        output.print_json({"ok": well, "silent_s": _finite(age_s), "status": found})
    else:
        output.out.print(page(found, age_s))
    if not well:
        raise typer.Exit(1)


def _watch(folder: Path) -> None:
    import contextlib
    import time

    from rich.live import Live
    from rich.markup import escape

    from edgetrt.agent.status import read
    from edgetrt.cli import output
    from edgetrt.errors import TransportError

    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(console=output.out, screen=output.out.is_terminal) as live,
    ):
        while True:
            try:
                found = read(folder)
                live.update(page(found, _silent_s(found)))
            except TransportError as error:
                live.update(f"[red]{escape(error.message)}[/]\n[dim]{escape(error.hint)}[/]")
            time.sleep(REFRESH_S)


def _silent_s(found: Status) -> float | None:
    import time

    from edgetrt.agent.identity import boot_id
    from edgetrt.agent.status import silent_s

    return silent_s(found, time.monotonic_ns(), boot_id())


def _finite(age_s: float | None) -> float | None:
    return None if age_s is None or age_s == float("inf") else round(age_s, 1)


def page(found: Status, age_s: float | None) -> RenderableType:
    """What a person sees; `age_s`: for how long the agent has been silent, None = it is not."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    health = found.health
    title = f"[bold]{escape(health.device)}[/] {MARKS.get(health.state, health.state)}"
    lines: list[RenderableType] = [f"{title}  [dim]edgetrt {escape(health.version)}[/]"]
    if age_s is not None:
        since = "before the last boot" if age_s == float("inf") else f"{age_s:.0f} s ago"
        lines.append(f"[red]The agent last spoke {since}: it is not running.[/]")
    for reason in health.reasons:
        about, text = escape(reason.about), escape(reason.text)
        lines.append(f"  {MARKS.get(reason.state, reason.state)} {about}: {text}")
    table = Table(box=None, header_style="bold")
    for name in ("pipeline", "state", "Hz", "p50 ms", "p99 ms", "dropped", "engine", "backend"):
        table.add_column(name, justify="right" if name in ("Hz", "p50 ms", "p99 ms") else "left")
    for row in health.pipelines:
        seen = row.latency
        shown = ("", "") if seen is None else (f"{seen.p50_ms:.1f}", f"{seen.p99_ms:.1f}")
        dropped = str(row.counters.dropped)
        tail = (dropped, escape(row.engine[:12]), escape(row.backend))
        table.add_row(escape(row.pipeline), escape(row.state), f"{row.fps:.1f}", *shown, *tail)
    return Group(*lines, table, _foot(found))


def _foot(found: Status) -> RenderableType:
    from rich.markup import escape
    from rich.table import Table

    agent, outbox, machine = found.health.agent, found.health.outbox, found.health.machine
    rows, held = sum(outbox.rows.values()), sum(outbox.bytes.values())
    table = Table(box=None, show_header=False)
    table.add_row(
        "broker", "connected" if found.connected else f"[yellow]{escape(found.broker)}[/]"
    )
    table.add_row("outbox", f"{rows} messages, {held / 1e6:.2f} MB in {outbox.store}")
    table.add_row("results", f"{agent.received} received, {agent.published} published")
    resident = "" if agent.rss_bytes is None else f", agent {agent.rss_bytes / 1e6:.0f} MB"
    table.add_row("memory", f"{_of(machine.memory_available, machine.memory_total)}{resident}")
    table.add_row("disk", _of(machine.disk_free, machine.disk_total))
    if told := _board(found.health.board):
        table.add_row("board", escape(told))
    if found.update is not None:
        table.add_row("update", escape(_update(found.update)))
    return table


def _update(update: UpdateReport) -> str:
    """What serves, and how far the next one is."""
    serves = f"release {update.serving[:12]} serves" if update.serving else "no release serves"
    if update.fault:
        return f"{serves}; {update.fault}"
    if not update.state or (update.code and update.held):
        return f"{serves}; {update.held}" if update.held else serves
    why = update.detail if update.code else update.held
    at = f"{update.target or update.digest[:12]}: {update.code or update.state}"
    return f"{serves}; {at}{f' – {why}' if why else ''}"


def _board(board: BoardState) -> str:
    """Power mode and heat, as far as the board tells."""
    parts = [] if board.power_mode is None else [f"power mode {board.power_mode}"]
    if board.temperatures_c:
        zone, hottest_c = max(board.temperatures_c.items(), key=lambda item: item[1])
        parts.append(f"{hottest_c:g} °C at {zone}")
    if board.headroom_c is not None:
        parts.append(f"{board.headroom_c:g} below slowing down")
    return ", ".join(parts)


def _of(free: int | None, total: int | None) -> str:
    if free is None or total is None:
        return "not known"
    return f"{free / 1e9:.1f} GB free of {total / 1e9:.1f}"
