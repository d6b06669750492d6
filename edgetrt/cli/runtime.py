"""`edgetrt runtime`: the data process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_CONFIG = Path("/etc/edgetrt/agent.yaml")


def runtime(
    config: Annotated[Path, typer.Option(help="The device's agent.yaml.")] = DEFAULT_CONFIG,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of the link to the agent; default /run/edgetrt.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="End each pipeline after this many frames.")
    ] = None,
) -> None:
    """Run every pipeline of this device and hand the results to the agent."""
    from edgetrt import app, children

    children.follow_parent()
    device, _ = app.device_config(config)
    if not app.run_runtime(device, config, run_dir or app.run_dir(), frames):
        raise typer.Exit(1)
