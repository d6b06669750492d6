"""`edgetrt demo-update`: what a device takes, what it refuses, and what a pulled plug does to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgetrt.demo.update import Case


def demo_update(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="A new folder for everything, to look at afterwards.")
    ] = None,
) -> None:
    """Show updates on this machine: releases good, bad and forged, and a plug pulled in the middle."""
    import asyncio
    import signal
    import tempfile
    import time

    from edgetrt.cli.output import err, print_json
    from edgetrt.config import BrokerConfig
    from edgetrt.demo.broker import Broker
    from edgetrt.demo.update import show

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or mosquitto would outlive us
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgetrt-") as temporary:
        folder = _folder(keep or Path(temporary) / "demo")
        shelf = folder / "broker"
        shelf.mkdir()
        with Broker(shelf) as broker:
            where = BrokerConfig(port=broker.port, spread_s=0)
            cases = asyncio.run(show(folder, where, _tell))
    took_s = time.monotonic() - begun_s
    if json:
        print_json(_report(cases, took_s))
    else:
        _print(cases, took_s)
    if not all(case.ok for case in cases):
        err.print("Not everything ended as it has to.", style="red")
        raise typer.Exit(1)


def _folder(path: Path) -> Path:
    from edgetrt.errors import SinkError

    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise SinkError(
            f"{path}: cannot be made: {error.strerror}", "Name a new folder: --keep FOLDER."
        ) from error
    return path.resolve()


def _tell(case: Case) -> None:
    """One line, as soon as it is over."""
    from rich.markup import escape

    from edgetrt.cli.output import err

    mark = "[green]✓[/]" if case.ok else "[red]✗[/]"
    err.print(f" {mark} {escape(case.name)}: [bold]{case.code}[/]", highlight=False)


def _report(cases: list[Case], took_s: float) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "ok": all(case.ok for case in cases),
        "took_s": round(took_s, 1),
        "cases": [{**asdict(case), "ok": case.ok} for case in cases],
    }


def _print(cases: list[Case], took_s: float) -> None:
    from rich.markup import escape
    from rich.table import Table

    from edgetrt.cli.output import out

    heads = ("what was tried", "end", "why", "serves then", "took")
    table = Table(*heads, box=None, pad_edge=False)
    for case in cases:
        colour = "green" if case.ok else "red"
        table.add_row(
            escape(case.name),
            f"[{colour}]{case.code}[/]",
            escape(case.reason),
            escape(case.serves.removeprefix("releases/").removesuffix(".tar")),
            f"{case.took_s:.1f} s",
        )
    out.print(table)
    out.print()
    for case in cases:
        out.print(f"[bold]{escape(case.name)}[/]", highlight=False)
        for line in _lines(case):
            out.print(f"  {escape(line)}", soft_wrap=True, highlight=False)
    out.print(
        f"\n{sum(case.ok for case in cases)} of {len(cases)} as they have to, in {took_s:.0f} s."
    )


def _lines(case: Case) -> list[str]:
    """What was seen besides."""
    lines = [case.detail] if case.detail else []
    lines += case.notes
    if case.way:
        lines.append(", ".join(f"{state} {at_s:.1f} s" for state, at_s in case.way))
    if case.serving_s is not None:
        lines.append(f"first result of the new engine {case.serving_s:.1f} s after the assignment")
    if case.gap is not None:
        lines.append(
            f"largest gap between results around the switch {case.gap.largest_ms:.0f} ms, a frame is"
            f" {case.gap.frame_ms:.0f} ms; {case.gap.lost} frames lost, {case.gap.dropped} dropped"
            " because this machine was busy"
        )
    lines += [f"WRONG: {wrong}" for wrong in case.wrong]
    return lines
