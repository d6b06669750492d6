"""What the machine asks of its caller: the part that knows engines, the runtime and the board."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgetrt.update.built import Built
from edgetrt.update.record import Check, Figures, Verdict
from edgetrt.update.release import Release


class Engines(Protocol):
    """Makes engines of releases and lets the runtime take them. Every call may come again."""

    def build(self, folder: Path, release: Release) -> Built | None:
        """Have every engine of an unpacked release made, at low priority, while others serve.

        Returns:
            What was built, with its failure when it cannot run here; None = at work, come again.

        Raises:
            EdgetrtError: the build cannot be begun, or died.
        """

    def rest(self) -> None:
        """No build is wanted now: end one that is at work."""

    def activate(self, folder: Path, release: Release) -> tuple[Check, ...]:
        """Let the runtime serve this release from the next frame on.

        Returns:
            In how far its networks agreed with those before on live frames, where that was asked for.

        Raises:
            EdgetrtError: it did not take it.
        """

    def restore(self, folder: Path | None) -> None:
        """Let the runtime serve what it served before; None = before the first release.

        Raises:
            EdgetrtError: it did not take it.
        """


class Headroom(Protocol):
    """Whether the board can bear a switch now."""

    def lacking(self) -> str:
        """What it lacks, in words; empty = nothing."""


@dataclass(frozen=True)
class Trial:
    """A release that has been switched to.

    Attributes:
        digest: of it.
        release: with what it promised for each pipeline, and for how long it is watched.
        built: which engines were made for it here.
        before: how the pipelines ran before it.
        entered_at: when its trial began, in seconds since 1970; tells two trials of it apart.
    """

    digest: str
    release: Release
    built: Built | None
    before: Mapping[str, Figures]
    entered_at: float


class Prover(Protocol):
    """Watches what serves."""

    def figures(self) -> dict[str, Figures]:
        """How the pipelines run now; those that say too little are left out."""

    def look(self, trial: Trial) -> Verdict | None:
        """Judge the release that has just been switched to; None = it is too early for a verdict."""
