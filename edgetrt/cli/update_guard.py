"""`edgetrt update take-back`: what `edgetrt-rollback` runs when the runtime has failed for good."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NOTHING = 75
"""Exit status when there was no release to take back, as that of services/rollback."""


def take_back(
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Folder of updates; default: this device's.")
    ] = None,
    trial_only: Annotated[
        bool, typer.Option("--trial-only", help="Leave a release alone that was proven.")
    ] = False,
) -> None:
    """Put the release before back, without the agent; each is taken back once."""
    from edgetrt.app.places import state_dir
    from edgetrt.cli.output import err
    from edgetrt.update import durable, guard

    where = folder or state_dir() / "update"
    with durable.as_owner(where):
        digest = guard.take_back(where, trial_only)
    if not digest:
        raise typer.Exit(NOTHING)
    err.print(f"rollback: release {digest[:12]} was taken back", highlight=False)
