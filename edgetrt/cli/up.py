"""`edgetrt up`: agent and runtime as children, for machines without systemd."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from edgetrt.cli.runtime import DEFAULT_CONFIG

RESTART_S = 2.0

FINAL = (0, 1, 65, 78)
"""Exit codes of the runtime that another start would only repeat: all over, or a mistake to mend."""


def up(
    config: Annotated[Path, typer.Option(help="The device's agent.yaml.")] = DEFAULT_CONFIG,
) -> None:
    """Run agent and runtime here until Ctrl-C, or until every pipeline has come to its end."""
    from edgetrt import app, document
    from edgetrt.children import Children
    from edgetrt.cli.output import err
    from edgetrt.config import DeviceConfig

    document.load(config, DeviceConfig)  # a mistake is told once, not by two children
    stop = app.stop_on_signals()
    with tempfile.TemporaryDirectory(prefix="edgetrt-") as sockets:
        options = ["--config", str(config), "--run-dir", sockets]
        children = Children({"agent": ["agent", *options], "runtime": ["runtime", *options]})
        try:
            for unit in ("agent", "runtime"):
                children.start(unit)
            while not stop.wait(0.2):
                status = children.status("runtime")
                if status in FINAL:
                    raise typer.Exit(status)
                for unit in ("agent", "runtime"):
                    if children.state(unit) != "active" and not stop.wait(RESTART_S):
                        err.print(f"{unit} ended with {children.status(unit)}; starting it again")
                        children.start(unit)
        finally:
            children.close()
