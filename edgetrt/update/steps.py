"""What each state does; every step may be begun again after a power cut."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from msgspec.structs import replace

from edgetrt.errors import EdgetrtError, IncompatibleError, ProveError, TrustError
from edgetrt.update import archive, built
from edgetrt.update.conditions import SwitchConditions
from edgetrt.update.desired import Desired
from edgetrt.update.fetch import Progress, Wanted, fetch
from edgetrt.update.layout import Layout
from edgetrt.update.origin import BundleOrigin, Origin
from edgetrt.update.ports import Engines, Prover, Trial, Trusting
from edgetrt.update.record import Memory, Offer, Record, Verdict
from edgetrt.update.release import Host, require
from edgetrt.update.states import State

_SPARE = 16 << 20
_POLL_S = 1.0
_STALE_S = 120.0
"""After so long a wait what was noted before the build is noted anew: the night is not the day."""
_BUILD_POLL_S = 0.2
"""How often a build is asked whether it is done: with its engines cached it takes a second or two."""


@dataclass(frozen=True)
class Outcome:
    """What came of a step.

    Attributes:
        record: with what the step found out.
        hold_s: not done: come again after so long.
        why: it is not done.
        error: it will not be done.
    """

    record: Record
    hold_s: float | None = None
    why: str = ""
    error: EdgetrtError | None = None


Step = Callable[[Record, Memory], Outcome]


@dataclass(frozen=True)
class Sources:
    """Where releases come from: one place for metadata, mirrors for the files."""

    metadata: Origin
    targets: tuple[Origin, ...]


class Verifying:
    """VERIFY, FETCH and STAGE: nothing here touches what serves.

    Args:
        device: name of this device.
        host: what it is.
        layout: where releases lie.
        trust: in whom.
        sources: where from, unless the offer came with a bundle; None = bundles only.
        progress: is told of the download.
        now_s: seconds since 1970.
    """

    def __init__(
        self,
        device: str,
        host: Host,
        layout: Layout,
        trust: Trusting,
        sources: Sources | None,
        progress: Progress = lambda *_: None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.device, self.layout, self.now_s = device, layout, now_s
        self._host, self._trust, self._sources, self._progress = host, trust, sources, progress

    def steps(self) -> Mapping[State, Step]:
        """By state."""
        return {State.VERIFY: self.verify, State.FETCH: self.fetch, State.STAGE: self.stage}

    def refresh(self) -> None:
        """Fetch and verify the repository's metadata, and with it whose assignments count.

        Raises:
            UpdateError: as `Trusting.refresh`.
        """
        if self._sources is not None:  # else bundles bring it
            self._trust.refresh(self._sources.metadata, self._sources.targets[0])

    def known_signer(self, offer: Offer) -> Desired:
        """Check an offer by what was trusted at the last refresh, without any network.

        Raises:
            TrustError: it does not hold, or the signer is not known yet.
            UnreachableError: the clock cannot be trusted.
        """
        return self._trust.signed(offer.envelope.encode(), self.device)

    def rest(self, idle_s: float) -> None:
        """As `Trusting.rest`."""
        self._trust.rest(idle_s)

    def verify(self, record: Record, memory: Memory) -> Outcome:
        """Check everything that can be checked before the download."""
        sources = self._from(record.offer)
        self._trust.refresh(sources.metadata, sources.targets[0])
        desired = self.known_signer(record.offer)
        _in_order(desired, memory)
        trusted = self._trust.target(desired.target)
        _same(desired, trusted.wanted)
        told = trusted.summary()
        require(told.needs, self._host, desired.target)
        self.layout.prune(desired.sha256, memory.previous)
        return Outcome(
            replace(
                record,
                generation=desired.generation,
                digest=desired.sha256,
                target=desired.target,
                path=trusted.wanted.path,
                length=desired.length,
                unpacked=told.unpacked,
                policy=desired.policy,
                serves=self.layout.current() == desired.sha256,
            )
        )

    def fetch(self, record: Record, _: Memory) -> Outcome:
        """Bring the file here, unless it has been unpacked before."""
        if not self.layout.has(record.digest):
            wanted = Wanted(record.path, record.digest, record.length)
            origins = self._from(record.offer).targets
            room = record.unpacked + _SPARE
            fetch(wanted, origins, self.layout.downloads, self._progress, room)
        return Outcome(record)

    def stage(self, record: Record, _: Memory) -> Outcome:
        """Unpack it, and look again whether it is for this device, by its own manifest."""
        release = self.layout.stage(self.layout.downloads / record.digest, record.digest)
        require(release.needs, self._host, record.target)
        (self.layout.downloads / record.digest).unlink(missing_ok=True)
        return Outcome(record)

    def _from(self, offer: Offer) -> Sources:
        if offer.bundle:
            path = Path(offer.bundle)
            return Sources(BundleOrigin(path, "metadata"), (BundleOrigin(path, "targets"),))
        if self._sources is None:
            raise IncompatibleError(
                "no repository is configured",
                "Set update.repository, or import a bundle.",
                "policy",
            )
        return self._sources


class Switching:
    """BUILD to COMMIT, and ROLLBACK."""

    def __init__(
        self,
        layout: Layout,
        engines: Engines,
        gate: SwitchConditions,
        prover: Prover,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._layout, self._engines, self._gate, self._prover = layout, engines, gate, prover
        self._now_s = now_s

    def steps(self) -> Mapping[State, Step]:
        """By state."""
        return {
            State.BUILD: self.build,
            State.WAIT: self.wait,
            State.ACTIVATE: self.activate,
            State.PROVE: self.prove,
            State.COMMIT: self.commit,
            State.ROLLBACK: self.rollback,
        }

    def build(self, record: Record, _: Memory) -> Outcome:
        """Note how what serves runs; then have the engines made."""
        folder = self._layout.release(record.digest)
        if not record.before:
            record = replace(record, before=self._prover.figures())
        found = self._engines.build(folder, archive.read(folder))
        if found is None:
            return Outcome(record, _BUILD_POLL_S, "its engines are being made")
        if found.failure is None:
            return Outcome(record)
        failure = found.failure
        verdict = Verdict(checks=found.checks) if found.checks else None
        return Outcome(
            replace(record, verdict=verdict),
            error=IncompatibleError(failure.message, failure.hint, failure.code),
        )

    def wait(self, record: Record, _: Memory) -> Outcome:
        """Hold while anything speaks against a switch; note what serves until then."""
        now_s = self._now_s()
        local = datetime.fromtimestamp(now_s).astimezone()
        since_s = now_s - record.entered_at
        why = self._gate.held(record.policy, record.digest, local, since_s)
        if why:
            return Outcome(record, _POLL_S, why)
        if not record.before or since_s > _STALE_S:
            record = replace(record, before=self._prover.figures() or record.before)
        return Outcome(replace(record, previous=self._layout.current()))

    def activate(self, record: Record, _: Memory) -> Outcome:
        """Switch the link, then the runtime."""
        folder = self._layout.release(record.digest)
        release = archive.read(folder)
        self._layout.switch(record.digest)
        checks = self._engines.activate(folder, release)
        verdict = Verdict(checks=checks) if checks else None
        record = replace(record, verdict=verdict)
        return Outcome(record, error=_disproved(record, verdict))

    def prove(self, record: Record, _: Memory) -> Outcome:
        """Watch it until there is a verdict."""
        release = archive.read(self._layout.release(record.digest))
        made = built.read(self._layout.root, record.digest)
        trial = Trial(record.digest, release, made, record.before, record.entered_at)
        verdict = self._prover.look(trial)
        if verdict is None:
            return Outcome(record, _POLL_S, "watched")
        if record.verdict is not None:  # what the switch itself found
            verdict = replace(verdict, checks=(*record.verdict.checks, *verdict.checks))
        record = replace(record, verdict=verdict)
        return Outcome(record, error=_disproved(record, verdict))

    def commit(self, record: Record, _: Memory) -> Outcome:
        """Remove what is older than the release before."""
        self._layout.prune(record.digest, record.previous)
        return Outcome(record)

    def rollback(self, record: Record, _: Memory) -> Outcome:
        """Switch the link back, then the runtime."""
        self._layout.switch(record.previous)
        before = self._layout.release(record.previous) if record.previous else None
        self._engines.restore(before)
        return Outcome(record)


def _in_order(desired: Desired, memory: Memory) -> None:
    """The controller counts up, and one generation means one release for ever."""
    if desired.generation < memory.floor:
        raise TrustError(
            f"desired: generation {desired.generation}, {memory.floor} was seen before",
            "Assign again; the controller counts up.",
            "older",
        )
    if desired.generation == memory.floor and desired.sha256 != memory.seen:
        raise TrustError(
            f"desired: generation {desired.generation} was {memory.seen[:16]}…, now it is "
            f"{desired.sha256[:16]}…",
            "Assign again; the controller counts up.",
            "replayed",
        )


def _same(desired: Desired, wanted: Wanted) -> None:
    """The controller chooses among signed releases; it cannot say what is in them."""
    if (desired.sha256, desired.length) != (wanted.sha256, wanted.length):
        raise TrustError(
            f"{desired.target}: assigned with sha256 {desired.sha256[:16]}… and {desired.length}"
            f" bytes, signed with {wanted.sha256[:16]}… and {wanted.length}",
            "Assign it again, from the repository's own words.",
            "mismatch",
        )


def _disproved(record: Record, verdict: Verdict | None) -> ProveError | None:
    if verdict is None or verdict.ok:
        return None
    check = next(check for check in verdict.checks if not check.ok)
    return ProveError(
        f"{record.target}: {check.name}: {check.value}, limit {check.limit}",
        "See `edgetrt update show` for every check and the last log lines.",
        "prove",
    )
