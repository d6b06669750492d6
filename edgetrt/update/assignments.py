"""Where what arrives over the broker comes in: only what the assignment key signed gets further.

Anybody with the broker's password can publish a `desired`. Until its signature has held it changes a
counter here and nothing else: not the state of updates, not the disk, not what is told of an update.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping

from edgetrt.config import PipelineSettings
from edgetrt.errors import EdgetrtError, TrustError, UnreachableError
from edgetrt.update.desired import Desired, peek
from edgetrt.update.machine import Answer, Machine
from edgetrt.update.record import Offer
from edgetrt.update.steps import Verifying

_log = logging.getLogger(__name__)

Settle = Callable[[int, Mapping[str, PipelineSettings]], None]
"""Takes the settings of pipelines and the generation that they came with; every call may come again."""

_FRESH_S = 600.0
"""Keys that were looked up so long ago are looked up again, so that a removed one soon counts for nothing."""
_AGAIN_S = 10.0
"""Between two look-ups at least, however many forged assignments arrive."""
THROTTLED = "throttled"
"""Code of a wait that ends with the next look-up."""
_LOGGED = 10
"""Refusals that are logged one by one; then every hundredth is."""


class Assignments:
    """Looks at signatures, before anything is stored.

    Args:
        verifying: knows the keys.
        machine: takes releases.
        settle: takes settings.
        monotonic_s: for how long the known keys are taken.

    Attributes:
        refused: assignments that nobody entitled had signed, or not for this device, by code.
        older: assignments that were signed, and overtaken.
    """

    def __init__(
        self,
        verifying: Verifying,
        machine: Machine,
        settle: Settle = lambda *_: None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.refused: Counter[str] = Counter()
        self.older = 0
        self._verifying, self._machine, self._settle = verifying, machine, settle
        self._monotonic_s = monotonic_s
        self._refreshed_s = self._tried_s = -math.inf
        self._away: UnreachableError | None = None

    def accept(self, envelope: bytes, arrived_s: float) -> Answer | None:
        """Take an assignment, or refuse it and count that.

        Args:
            envelope: as it came.
            arrived_s: when, by the monotonic clock; keys looked up since then are the last word.

        Returns:
            What becomes of it; None = refused.

        Raises:
            UnreachableError: its signer is not known and the repository is away, or no clock tells whether
                it still holds: come again.
            OSError: the disk kept it from being looked at, or noted: come again.
        """
        offer = Offer(envelope=envelope.decode("utf-8", "replace"))
        try:
            return self._let_in(offer, self._signed(offer, arrived_s))
        except UnreachableError:
            raise
        except TrustError as error:
            self.refused[error.code] += 1
            count = self.refused.total()
            if count <= _LOGGED or count % 100 == 0:
                _log.warning("desired number %d refused: %s", count, error.message)
        return None

    def _let_in(self, offer: Offer, desired: Desired) -> Answer:
        newest = self._machine.newest()
        if desired.generation < newest:
            self.older += 1
            told = f"generation {desired.generation} ignored, {newest} was seen before"
            return Answer(answer="older", detail=told)
        self._settle(desired.generation, desired.settings)
        self._machine.settle(desired.generation)
        if desired.target:
            return self._machine.offer(offer)
        return Answer(answer="known", detail=f"settings of generation {desired.generation}")

    def _signed(self, offer: Offer, arrived_s: float) -> Desired:
        """Check it with keys of now where the repository answers, else with those of the last time."""
        foreign = peek(offer.envelope.encode()).device != self._verifying.device
        if not foreign and self._monotonic_s() - self._refreshed_s > _FRESH_S:
            with contextlib.suppress(UnreachableError):
                self._refresh()
        try:
            return self._verifying.known_signer(offer)
        except TrustError as error:
            if foreign or error.code != "signature" or self._refreshed_s >= arrived_s:
                raise
        self._refresh()
        return self._verifying.known_signer(offer)

    def _refresh(self) -> None:
        """Look the keys up; what else is wrong with the repository leaves them as they were.

        Raises:
            UnreachableError: it is away, or the clock is not set; also when it was looked at a moment ago.
            OSError: the disk; what the repository says now is not known.
        """
        now_s = self._monotonic_s()
        if now_s - self._tried_s < _AGAIN_S:
            raise self._away or UnreachableError(
                "its signer is not known, and the repository was looked at a moment ago",
                "It is looked at again.",
                THROTTLED,
            )
        self._tried_s, self._away = now_s, None
        try:
            self._verifying.refresh()
        except UnreachableError as error:
            self._away = error
            raise
        except EdgetrtError as error:
            _log.warning("the repository's metadata: %s", error.message)
        self._refreshed_s = now_s
