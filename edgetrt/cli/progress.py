"""The steps of a long command as they go, on stderr."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from edgetrt.cli.output import err

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

EVERY_S = 5.0
"""How often a step that goes on is told where there is no terminal."""


class Steps:
    """A line per step with its time; on a terminal also a bar with an estimate where one is known."""

    def __init__(self) -> None:
        self._bars: Progress | None = _bars() if err.is_terminal else None
        self._step = ""
        self._task: TaskID | None = None
        self._begun = self._told = 0.0

    def __enter__(self) -> Steps:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()
        if self._bars is not None:
            self._bars.stop()

    def say(self, step: str, what: str = "", fraction: float | None = None) -> None:
        """Note a step, what it is doing, and how far it is."""
        if step != self._step:
            self._finish()
            self._step, self._begun = step, time.monotonic()
            if self._bars is not None:
                self._task = self._bars.add_task(step, total=None)
        if self._bars is None:
            self._print(what)
        elif self._task is not None:
            label = f"{step}: {what}" if what else step
            total = None if fraction is None else 1.0
            self._bars.update(self._task, description=label, total=total, completed=fraction or 0.0)

    def _print(self, what: str) -> None:
        """One plain line, now and then."""
        now = time.monotonic()
        if what and now - self._told > EVERY_S:
            self._told = now
            err.print(f"{self._step}: {what}", markup=False, highlight=False, soft_wrap=True)

    def _finish(self) -> None:
        if not self._step:
            return
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, description=self._step, total=1, completed=1)
        elif self._bars is None:
            spent = time.monotonic() - self._begun
            err.print(f"{self._step}: {spent:.1f} s", markup=False, highlight=False)
        self._step = ""


def _bars() -> Progress:
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24))
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=err)
