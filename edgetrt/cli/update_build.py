"""`edgetrt update build`: the engines of a release that is here, made and tried, not yet at work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgetrt.update.built import Built


def build(
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="Of an unpacked release.")],
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Folder of updates; default: this device's.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make every engine of a release and ask it its golden inputs; nothing is switched.

    The agent has this done before it switches. What was made before is found in the engine cache.
    """
    from edgetrt import app, children
    from edgetrt.cli.output import print_json
    from edgetrt.deploy import release_build

    children.follow_parent()
    root = (folder or app.updates_dir()).resolve()
    release_build.known(root, digest)

    def work() -> None:
        from edgetrt.cli.progress import Steps

        with Steps() as steps:
            release_build.build(root, digest, steps.say)

    found = release_build.build_apart(root, digest, work)
    if json:
        print_json(found)
    else:
        _print(found)


def _print(found: Built) -> None:
    from rich.markup import escape

    from edgetrt.cli.output import out

    for part in found.pipelines:
        memory = f", {part.memory_mb:.0f} MB" if part.memory_mb is not None else ""
        first = f", first inference {part.first_ms:.1f} ms" if part.first_ms is not None else ""
        out.print(
            f"[bold]{part.name}[/bold]: {part.precision} on {part.backend}{memory}{first}"
            f"  [dim]{part.engine[:12]}[/dim]",
            highlight=False,
        )
        for check in part.checks:
            told = escape(f"{check.name}: {check.value}, limit {check.limit}")
            out.print(f"  [green]ok[/green] {told}", soft_wrap=True, highlight=False)
