"""Walks an update through the table: stores where it goes, then does the work there.

Pulling the plug on any line leaves a stored state, and that state's work can be begun again.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec
from msgspec.structs import replace

from edgetrt.errors import EdgetrtError, TrustError, UnreachableError, UpdateError
from edgetrt.update import transition
from edgetrt.update.desired import Desired, peek
from edgetrt.update.record import Memory, Offer, Record, Store
from edgetrt.update.requests import Requests
from edgetrt.update.states import ROWS, State
from edgetrt.update.steps import Outcome, Step

_LONGEST_RETRY_S = 300.0
_TRIED_FIRST = (State.COMMIT, State.ROLLBACK)
"""A device that was off for longer than their deadline still does them: nothing else puts it right."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of an offer.

    Attributes:
        answer: `begun`; `waits` for the one on its way; `known`: it is that one, or was; `older` than
            one seen before: ignored.
        detail: in words.
        record: the update that it is about.
    """

    answer: Literal["begun", "waits", "known", "older"]
    detail: str = ""
    record: Record | None = None


@dataclass(frozen=True)
class Ports:
    """What the machine needs of the outside.

    Attributes:
        device: name of this device.
        known_signer: checks an offer without any network; raises TrustError when it does not hold.
        now_s: seconds since 1970.
        tell: is told of every change.
    """

    device: str
    known_signer: Callable[[Offer], Desired]
    now_s: Callable[[], float]
    tell: Callable[[Record], None] = lambda _: None


class Machine:
    """The updates of one device; one at a time, in one process at a time (see `record.alone`).

    Args:
        store: where their state is kept.
        steps: the work of each state.
        requests: what people ask for on this device.
        ports: the rest of the world.
    """

    def __init__(
        self, store: Store, steps: Mapping[State, Step], requests: Requests, ports: Ports
    ) -> None:
        self._store, self._steps, self._requests, self._ports = store, steps, requests, ports
        self._entered: tuple[float, State] | None = None
        self._attempts = 0

    def offer(self, offer: Offer) -> Answer:
        """Take note of a `desired`; nothing in it counts before VERIFY.

        Raises:
            TrustError: it cannot be for this device.
        """
        desired = peek(offer.envelope.encode())
        if desired.device != self._ports.device:
            raise TrustError(
                f"desired: for device {desired.device!r}, this is {self._ports.device!r}",
                "Look who sends other devices' assignments here.",
                "foreign",
            )
        memory = self._store.load()
        record = memory.record
        if _is_known(memory, desired, offer):
            return Answer(answer="known", record=transition.of(memory, desired.sha256) or record)
        if not desired.sha256:
            raise TrustError(
                "desired: names no release",
                "Settings alone come over the broker; a bundle is for a release.",
                "malformed",
            )
        newest = self.newest()
        if desired.generation < newest:
            told = f"generation {desired.generation}, {newest} was seen before"
            return Answer(answer="older", detail=told, record=record)
        if record is not None and record.code is None:
            self._store.save(replace(memory, waiting=offer))
            return Answer(answer="waits", record=record)
        self._begin(memory, offer, desired)
        return Answer(answer="begun", record=self._store.load().record)

    def step(self) -> float | None:
        """Do one thing.

        Returns:
            After how many seconds to come again; None when there is nothing to do.
        """
        memory = self.obey()
        record = memory.record
        if record is None or record.code is not None:
            return self._next(memory)
        if self._supersede(memory, record):
            return 0.0
        memory, record = self._enter(memory, record)
        now_s = self._ports.now_s()
        left = transition.circling(memory, record, now_s)
        if left is None and record.state not in _TRIED_FIRST:
            left = transition.late(memory, record, now_s)
        if left is not None:
            self._save(left)
            return 0.0
        return self._conclude(memory, record, self._work(record, memory))

    def _work(self, record: Record, memory: Memory) -> Outcome:
        try:
            return self._steps[record.state](record, memory)
        except EdgetrtError as error:
            return Outcome(record, error=error)
        except OSError as error:
            where = error.filename or "the disk"
            told = f"{where}: {error.strerror or error}"
            return Outcome(
                record, error=UpdateError(told, "Look at the disk: space, mode, faults.", "disk")
            )

    def _conclude(self, memory: Memory, record: Record, outcome: Outcome) -> float:
        now_s = self._ports.now_s()
        if outcome.error is not None:
            to = transition.refused(ROWS[record.state], outcome.error)
            if to is None and (late := transition.late(memory, record, now_s)) is not None:
                self._save(late)
                return 0.0
            if to is None:
                return self._hold(memory, record, outcome.error.in_line, self._retry_s())
            explained = transition.explained(outcome.record, outcome.error)
            self._save(transition.enter(memory, explained, to, now_s))
        elif outcome.hold_s is not None:
            return self._hold(memory, outcome.record, outcome.why, outcome.hold_s)
        else:
            self._save(transition.done(memory, outcome.record, now_s))
        return 0.0

    def _hold(self, memory: Memory, record: Record, why: str, seconds: float) -> float:
        """Stay; told and stored only when the reason is another one, for the flash's sake."""
        if record.held != why:
            record = replace(record, held=why)
            self._store.save(replace(memory, record=record))
            self._ports.tell(record)
        return seconds

    def _retry_s(self) -> float:
        """Twice as long each time, and never in step with other devices."""
        self._attempts += 1
        longest = min(_LONGEST_RETRY_S, 2.0**self._attempts)
        return random.uniform(longest / 2, longest)  # noqa: S311 - spreads load, hides nothing

    def _enter(self, memory: Memory, record: Record) -> tuple[Memory, Record]:
        """Count every entry into a state, that after a restart as well, before its work begins."""
        if self._entered is None:
            record = replace(record, stores=record.stores + 1)
        record = transition.dated(record, self._ports.now_s())
        if self._entered != (record.entered_at, record.state):
            memory = replace(memory, record=record)
            self._store.save(memory)
            self._entered, self._attempts = (record.entered_at, record.state), 0
        return memory, record

    def _save(self, memory: Memory) -> None:
        self._store.save(memory)
        record = memory.record
        if record is not None:
            self._entered, self._attempts = (record.entered_at, record.state), 0
            self._ports.tell(record)

    def _begin(self, memory: Memory, offer: Offer, desired: Desired) -> None:
        self._save(
            transition.begin(memory, offer, desired.generation, desired.sha256, self._ports.now_s())
        )

    def _next(self, memory: Memory) -> float | None:
        """Begin with what waits."""
        if memory.waiting is None:
            return None
        desired = peek(memory.waiting.envelope.encode())
        if desired.generation < memory.floor or _is_known(memory, desired, memory.waiting):
            self._store.save(replace(memory, waiting=None))
            return 0.0
        self._begin(memory, memory.waiting, desired)
        return 0.0

    def _supersede(self, memory: Memory, record: Record) -> bool:
        """Give way to a newer assignment, when it holds and nothing was switched yet."""
        if memory.waiting is None or not ROWS[record.state].cancel:
            return False
        try:
            desired = self._ports.known_signer(memory.waiting)
        except (TrustError, UnreachableError):
            return False
        if desired.generation <= memory.floor:
            return False
        told = f"generation {desired.generation} came"
        self._save(transition.canceled(memory, record, "superseded", told, self._ports.now_s()))
        return True

    def newest(self) -> int:
        """The highest generation that was ever signed for this device."""
        memory = self._store.load()
        return max(memory.floor, memory.settled)

    def settle(self, generation: int) -> None:
        """Note that a signed assignment was taken, with settings only or not; lower ones are old now."""
        memory = self._store.load()
        if generation > memory.settled:
            self._store.save(replace(memory, settled=generation))

    def obey(self) -> Memory:
        """Do what the guard did and what a person asked for, as far as it can be done now."""
        memory = self._heed_guard()
        asked = self._requests.pending()
        record = memory.record
        if asked is None:
            return memory
        now_s = self._ports.now_s()
        flying = record is not None and record.code is None
        if asked.what == "rollback" and memory.previous and not flying:
            memory = transition.back(memory, asked.digest, now_s)
            self._save(memory)
        elif asked.what == "abort" and record and flying and ROWS[record.state].cancel:
            memory = transition.canceled(memory, record, "aborted", "a person did", now_s)
            self._save(memory)
        elif asked.what == "import" and asked.offer is not None:
            with contextlib.suppress(TrustError):  # who asked has looked whom it is for
                self.offer(asked.offer)
            memory = self._store.load()
        self._requests.clear()
        return memory

    def _heed_guard(self) -> Memory:
        memory, digest = self._store.load(), self._requests.taken_back()
        if digest:
            after = transition.crashed(memory, digest, self._ports.now_s())
            if after is not memory:
                self._save(after)
            self._requests.forget_mark()
            memory = after
        return memory


def _is_known(memory: Memory, desired: Desired, offer: Offer) -> bool:
    """Whether an offer is the one that was verified last, or the very one that is looked at now.

    Only what was verified counts by its words: a forged offer must not make the real one look known.
    """
    seen = (memory.floor, memory.seen) == (desired.generation, desired.sha256)
    return seen or (memory.record is not None and memory.record.offer == offer)
