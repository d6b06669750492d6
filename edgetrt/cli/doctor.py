"""`edgetrt doctor`: what this machine has, and what to do about what it lacks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edgetrt.cli import runtime

RELOAD = "sudo systemctl daemon-reload && sudo systemctl restart edgetrt-runtime"
MARKS = {"ok": "[green]✓[/]", "absent": "[yellow]–[/]", "problem": "[red]✗[/]"}


def doctor(
    config: Annotated[
        Path | None, typer.Option(help="agent.yaml whose broker is logged in to.")
    ] = None,
    broker: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Broker to try.")] = None,
    sandbox: Annotated[
        bool, typer.Option(help="Look from inside the runtime's systemd unit; needs root.")
    ] = False,
    write: Annotated[
        bool,
        typer.Option(help="With --sandbox: write what this board needs of it; needs root."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Examine this machine; exits with 1 when something needed does not work."""
    from rich.markup import escape
    from rich.table import Table

    from edgetrt import app, document
    from edgetrt import config as configs
    from edgetrt import sandbox as boundary
    from edgetrt.cli import output
    from edgetrt.doctor import Finding, examine

    findings: Sequence[Finding]
    if os.environ.get(boundary.INSIDE):
        output.print_json(boundary.inside())
        return
    sources = _sources(config or runtime.DEFAULT_CONFIG) if sandbox else []
    if sandbox and write:
        _write(sources, json)
        return
    if sandbox:
        findings = boundary.examine(sources)
    else:
        place = configs.broker(broker) if broker else configs.BrokerConfig()
        if configured := config is not None and broker is None:
            place = app.broker_of(document.load(config, configs.DeviceConfig), config)
        findings = examine(place, configured=configured)
    healthy = all(finding.state != "problem" for finding in findings)
    if json:
        output.print_json({"ok": healthy, "findings": [asdict(finding) for finding in findings]})
    else:
        table = Table(box=None, show_header=False)
        for finding in findings:
            fix = f"\n[dim]{escape(finding.fix)}[/]" if finding.fix else ""
            table.add_row(MARKS[finding.state], finding.name, escape(finding.value) + fix)
        output.out.print(table)
    if not healthy:
        raise typer.Exit(1)


def _sources(config: Path) -> list[str]:
    """Of every pipeline of this device."""
    from edgetrt import app, document
    from edgetrt.config import DeviceConfig

    found = app.wanted(document.load(config, DeviceConfig), config)
    return [one.pipeline.source for one in found.values()]


def _write(sources: Sequence[str], json: bool) -> None:
    """Make the drop-ins of the runtime's and the build's units."""
    from edgetrt import dropins
    from edgetrt.cli import output

    changes = dropins.write(sources)
    if json:
        output.print_json({"files": [{"path": str(c.path), "done": c.done} for c in changes]})
        return
    for change in changes:
        output.out.print(f"{change.done:8} {change.path}", highlight=False)
    if any(change.done != "kept" for change in changes):
        output.out.print(f"[dim]{RELOAD}[/]", highlight=False)
