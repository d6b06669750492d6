"""What `edgetrt update` says of an update, for people."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.markup import escape

from edgetrt.cli.output import out

if TYPE_CHECKING:
    from edgetrt.update.record import Memory, Record


def name(memory: Memory, digest: str) -> str:
    """A release, by the name it came with where that is remembered."""
    from edgetrt.update.transition import of

    if not digest:
        return "no release"
    record = of(memory, digest)
    return f"{record.target} ({digest[:12]})" if record else digest[:12]


def line(record: Record) -> str:
    """An update in one line."""
    what = record.target or f"sha256 {record.digest[:12]}"
    at = record.code.value if record.code else record.state.value
    why = record.detail if record.code else record.held
    return f"{what}, generation {record.generation}: {at}{f' – {why}' if why else ''}"


def print_held(why: str) -> None:
    """Say what is in the way of every update."""
    if why:
        out.print(f"held:   {escape(why)}", soft_wrap=True, highlight=False)


def print_record(record: Record) -> None:
    """Tell all about an update."""
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.begun_at))
    out.print(f"[bold]{escape(line(record))}[/bold]", soft_wrap=True, highlight=False)
    out.print(f"  asked for {begun}, in {record.state.value}, stored {record.stores} times")
    if record.reason:
        out.print(f"  reason: {record.reason}", highlight=False)
    if record.hint:
        out.print(f"  hint: {escape(record.hint)}", soft_wrap=True, highlight=False)
    for pipeline, known in record.before.items():
        p99 = "" if known.p99_ms is None else f", p99 {known.p99_ms:g} ms"
        out.print(f"  before: {pipeline} {known.fps:g} Hz{p99}", highlight=False)
    if record.verdict is None:
        return
    for check in record.verdict.checks:
        sign = "[green]ok[/green]" if check.ok else "[red]no[/red]"
        told = escape(f"{check.name}: {check.value}, limit {check.limit}")
        out.print(f"  {sign} {told}", highlight=False)
    for last in record.verdict.log:
        out.print(f"  | {escape(last)}", soft_wrap=True, highlight=False)
