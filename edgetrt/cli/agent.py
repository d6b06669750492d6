"""`edgetrt agent`: the control process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgetrt.cli.runtime import DEFAULT_CONFIG


def agent(
    config: Annotated[Path, typer.Option(help="The device's agent.yaml.")] = DEFAULT_CONFIG,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of the link to the runtime; default /run/edgetrt.")
    ] = None,
) -> None:
    """Report this device's results and health to the MQTT broker."""
    from edgetrt import app, children

    children.follow_parent()
    device, complaint = app.device_config(config)
    app.run_agent(device, config, run_dir or app.run_dir(), complaint)
