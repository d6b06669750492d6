"""Builds by units, switches by asking the runtime: the port `Engines` of updates."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgetrt.errors import EdgetrtError, UpdateError
from edgetrt.update import built
from edgetrt.update.record import Check

if TYPE_CHECKING:
    from edgetrt.asking import Answer
    from edgetrt.update.built import Built
    from edgetrt.update.release import Part, Release

_log = logging.getLogger(__name__)

RUNTIME = "runtime"
START_IT = "Start it: sudo systemctl start edgetrt-runtime; without systemd: edgetrt up."
"""What a person can do when no runtime runs."""
_START_S = 120.0
"""How long a runtime that did not run may take to come up and load its networks."""
_LOOK_S = 0.5


class Workers(Protocol):
    """What runs builds: `edgetrt.ports.Units`, with an end and a reason."""

    def start(self, unit: str) -> None:
        """As `Units.start`."""

    def restart(self, unit: str) -> None:
        """As `Units.restart`."""

    def stop(self, unit: str) -> object:
        """End a unit; no effect when it does not run."""

    def state(self, unit: str) -> str:
        """As `Units.state`."""

    def reason(self, unit: str) -> str:
        """Why it failed, in the supervisor's words; else empty."""


class UnitEngines:
    """Has releases built by `edgetrt-build@<digest>` and taken by `edgetrt-runtime`.

    Args:
        root: folder of updates.
        units: the supervisor.
        look: lets the runtime look again what should run, with so many frames of a shadow run; see
            `asking.look_again`.
        stopping: whether this process is about to end: nothing is waited for then.
        sleep: waits so many seconds.
        start_s: how long a runtime that did not run may take.
    """

    def __init__(
        self,
        root: Path,
        units: Workers,
        look: Callable[[int], Answer],
        stopping: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], None] = time.sleep,
        start_s: float = _START_S,
    ) -> None:
        self._root, self._units, self._look = root, units, look
        self._stopping, self._sleep, self._start_s = stopping, sleep, start_s
        self._building, self._ended = "", ""

    def build(self, folder: Path, release: Release) -> Built | None:
        """As `Engines.build`. The first call begins one, unless it goes on from before a restart.

        Raises:
            UpdateError: the build died, or nobody can start one.
        """
        digest = folder.name
        unit = f"build@{digest}"
        if self._building != digest:
            self.rest()
            works = self._units.state(unit) in ("activating", "active")
            if works and self._ended == digest:
                return None  # the end that was asked for is still on its way
            self._ended = ""
            if not works:
                built.forget(self._root, digest)
                self._units.start(unit)
            self._building = digest
            return None
        state = self._units.state(unit)
        if state in ("activating", "active"):
            return None
        self._building = ""
        found = built.read(self._root, digest)
        if found is not None and (found.failure is not None or state == "inactive"):
            return found
        raise _died(release, digest, self._units.reason(unit))

    def rest(self) -> None:
        """As `Engines.rest`."""
        unit, self._building = f"build@{self._building}" if self._building else "", ""
        if unit:
            self._ended = unit.removeprefix("build@")
            try:
                self._units.stop(unit)
            except EdgetrtError as error:
                _log.warning("a build that nobody wants goes on: %s", error.message)

    def activate(self, folder: Path, release: Release) -> tuple[Check, ...]:
        """As `Engines.activate`.

        Raises:
            UpdateError: the runtime did not take it, or not all of it.
        """
        engines = {
            part.name: part.engine for part in built.require(self._root, folder.name).pipelines
        }
        answer = self._ask(max(part.bands.shadow_frames for part in release.pipelines))
        if answer.state != "taken":
            raise _refused(release, answer)
        runs = {one.pipeline: one.engine for one in answer.pipelines}
        for name, engine in engines.items():
            if not runs.get(name) or not engine.startswith(runs[name]):
                raise UpdateError(
                    f"pipeline {name}: runs {runs.get(name, '')[:12] or 'nothing'}, the release has"
                    f" {engine[:12]}",
                    "Is there a source for it? A release without one needs a pipeline file of its name.",
                    "engine",
                )
        return tuple(
            _agreement(part, one.agreement)
            for part in release.pipelines
            for one in answer.pipelines
            if one.pipeline == part.name and one.agreement is not None
        )

    def restore(self, folder: Path | None) -> None:
        """As `Engines.restore`. Where no runtime runs, and none comes up, the next start takes it.

        Raises:
            UpdateError: the runtime that runs did not take it.
        """
        answer = self._ask()
        if answer.state not in ("taken", "installed"):
            raise UpdateError(
                f"the way back to {folder.name[:12] if folder else 'no release'}: {answer.detail}",
                "It is tried again.",
                "runtime",
            )

    def _ask(self, shadow: int = 0) -> Answer:
        """Let the runtime look again; one that does not run is started, one that is silent anew."""
        answer = self._look(shadow)
        if answer.state in ("taken", "refused") or self._stopping():
            return answer
        try:
            self._units.restart(RUNTIME)
        except EdgetrtError as error:
            _log.warning("no runtime answers; one is waited for: %s", error.in_line)
        begun = time.monotonic()
        while time.monotonic() - begun < self._start_s and not self._stopping():
            self._sleep(_LOOK_S)
            answer = self._look(0)
            if answer.state != "installed":
                break
        return answer


def _agreement(part: Part, found: float) -> Check:
    least = part.bands.agreement_min
    return Check(
        name=f"{part.name}: agreement with before",
        ok=least is None or found >= least,
        value=f"{found:.1%} on live frames",
        limit="told only" if least is None else f">= {least:.1%}",
    )


def _died(release: Release, digest: str, reason: str) -> UpdateError:
    told = f": {reason}" if reason else " without a word"
    memory = "oom" in reason or "KILL" in reason
    return UpdateError(
        f"{release.name} {release.version}: its build died{told}",
        "It ran out of memory: build it on a device with more, or stop other programs."
        if memory
        else f"See `journalctl -u edgetrt-build@{digest}`; by hand: edgetrt update build {digest}",
        "build-killed" if memory else "build-died",
    )


def _refused(release: Release, answer: Answer) -> UpdateError:
    if answer.state == "installed":
        return UpdateError(
            f"{release.name} {release.version}: no runtime runs here, and none came up",
            f"{START_IT} Then assign the release again.",
            "runtime",
        )
    return UpdateError(
        f"{release.name} {release.version}: the runtime did not take it: {answer.detail}",
        "See `journalctl -u edgetrt-runtime`.",
        "runtime",
    )
