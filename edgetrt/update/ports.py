"""What the machine asks of its caller: the parts that know whom to trust, engines, runtime and board."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from edgetrt.errors import TrustError
from edgetrt.update.built import Built
from edgetrt.update.desired import Desired
from edgetrt.update.fetch import Wanted
from edgetrt.update.origin import Origin
from edgetrt.update.record import Check, Figures, Verdict
from edgetrt.update.release import CUSTOM, Release, Summary


@dataclass(frozen=True)
class Trusted:
    """What the repository's keys say of a target.

    Attributes:
        wanted: path (as the repository stores it), digest and length.
        custom: what its metadata says besides.
    """

    wanted: Wanted
    custom: dict[str, Any]

    def summary(self) -> Summary:
        """What the metadata says of a release.

        Raises:
            TrustError: it is a target, but no release.
        """
        try:
            return msgspec.convert(self.custom.get(CUSTOM), Summary)
        except msgspec.ValidationError as error:
            raise TrustError(
                f"{self.wanted.path}: signed, but not as a release: {error}",
                "Assign a target that `edgetrt release add` made.",
                "not-a-release",
            ) from error


class Trusting(Protocol):
    """Knows whose word counts: `trust.Trust`, in this process or in one of its own."""

    def refresh(self, metadata: Origin, targets: Origin) -> object:
        """Fetch and verify what changed.

        Args:
            metadata: where the metadata is.
            targets: where the assignment keys are.

        Raises:
            UnreachableError: no answer, or the clock cannot be trusted yet.
            TrustError: a signature, a version, a hash or an expiry does not hold; `code` tells which.
        """

    def signed(self, envelope: bytes, device: str) -> Desired:
        """Check an envelope for a device by the keys of the last refresh, without any network.

        Raises:
            TrustError: it does not hold, or no key is known yet.
            UnreachableError: the clock cannot be trusted.
        """

    def target(self, path: str) -> Trusted:
        """What the last refresh says of a target.

        Raises:
            TrustError: there is none of that path.
            UnreachableError: nothing is held of that refresh any more: begin there again.
        """

    def rest(self, idle_s: float) -> None:
        """Let go of what was not used for so many seconds; it costs time to have it again."""


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
