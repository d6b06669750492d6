"""What the machine asks of its caller: the part that knows engines, the runtime and the board."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edgetrt.update.record import Verdict
from edgetrt.update.release import Release


class Engines(Protocol):
    """Makes engines of releases and lets the runtime take them. Every call may come again."""

    def build(self, folder: Path, release: Release) -> None:
        """Have every engine of an unpacked release ready, at low priority, while others serve.

        Raises:
            EdgetrtError: one cannot be made here, or is further from its network than allowed.
        """

    def activate(self, folder: Path, release: Release) -> None:
        """Let the runtime serve this release from the next frame on.

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


class Prover(Protocol):
    """Watches the release that has just been switched to."""

    def look(
        self, folder: Path, release: Release, previous: Path | None, since_s: float
    ) -> Verdict | None:
        """Judge it.

        Args:
            folder: of the release.
            release: with what it promised for each pipeline, and for how long it is watched.
            previous: folder of the release before, to compare with.
            since_s: for how long it has been watched.

        Returns:
            The verdict; None = it is too early for one.
        """
