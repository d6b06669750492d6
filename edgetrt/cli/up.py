"""`edgetrt up`: agent and runtime as children, for machines without systemd."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from edgetrt.cli.runtime import DEFAULT_CONFIG

if TYPE_CHECKING:
    from collections.abc import Mapping
    from threading import Event

    from edgetrt.children import Children

RESTART_S = 2.0
IDLE_S = 30.0
"""A runtime that had nothing to run is started again so often, and at once when another release serves."""

FINAL = {"agent": (78,), "runtime": (0, 1, 65, 78)}
"""Exit codes that another start would only repeat: all over, or a mistake to mend. A device that takes
releases waits for something to run instead."""


class Idle:
    """How long a runtime that had nothing to run stays away."""

    def __init__(self) -> None:
        self._since: tuple[str, float] | None = None

    def is_over(self, serves: str, now_s: float) -> bool:
        """Whether to start it again; asked over and over while it is away.

        Args:
            serves: digest of the release that serves now.
            now_s: by a clock that never goes back.
        """
        self._since = self._since or (serves, now_s)
        was, begun_s = self._since
        if serves == was and now_s - begun_s < IDLE_S:
            return False
        self._since = None
        return True


def up(
    config: Annotated[Path, typer.Option(help="The device's agent.yaml.")] = DEFAULT_CONFIG,
) -> None:
    """Run agent and runtime here until Ctrl-C, or until every pipeline has come to its end."""
    from edgetrt import app
    from edgetrt.agent.status import UP_FOLDER
    from edgetrt.children import Children
    from edgetrt.cli.output import err

    device = app.written(config)  # a mistake is told once, not by two children
    ends = FINAL if device.update is None else {**FINAL, "runtime": (78,)}
    stop = app.stop_on_signals()
    with tempfile.TemporaryDirectory(prefix=UP_FOLDER) as sockets:
        told = (
            f"agent and runtime are starting; Ctrl-C ends both; edgetrt status --run-dir {sockets}"
        )
        err.print(told, style="dim", soft_wrap=True, highlight=False)
        options = ["--config", str(config), "--run-dir", sockets]
        children = Children({"agent": ["agent", *options], "runtime": ["runtime", *options]})
        try:
            for unit in ("agent", "runtime"):
                children.start(unit)
            _watch(children, ends, stop)
        finally:
            children.close()


def _watch(children: Children, ends: Mapping[str, tuple[int, ...]], stop: Event) -> None:
    """Start again what ended, until one ends for good or `stop`."""
    from edgetrt import app
    from edgetrt.children import how_it_ended
    from edgetrt.cli.output import err

    idle = Idle()
    while not stop.wait(0.2):
        for unit, final in ends.items():
            status = children.status(unit)
            if status in final:
                raise typer.Exit(status)
            rests = unit == "runtime" and status == 0
            if rests and not idle.is_over(app.current(app.updates_dir()), monotonic()):
                continue
            if status is not None and not stop.wait(RESTART_S):
                if status:
                    err.print(f"{unit} {how_it_ended(status)}; starting it again")
                children.start(unit)
