"""Where messages get their number and their time, and go into the outbox."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgetrt import journal, wire
from edgetrt.agent.entry import Entry, Moment, Priority

if TYPE_CHECKING:
    from edgetrt.agent.identity import Identity
    from edgetrt.agent.outbox import Outbox


_log = logging.getLogger(__name__)


class Publisher:
    """Numbers what leaves: one sequence over all classes of an epoch.

    Args:
        identity: who.
        outbox: where it goes.
        now: by both clocks.
    """

    def __init__(self, identity: Identity, outbox: Outbox, now: Callable[[], Moment]) -> None:
        self._identity = identity
        self._outbox = outbox
        self._now = now
        self._seq = 0

    def result(self, topic: str, frame: wire.FrameResult) -> None:
        """Send a result of the runtime."""
        now = self._now()
        message = wire.stamp(
            frame,
            device=self._identity.device,
            epoch=self._identity.epoch,
            seq=self._next_seq(),
            time_s=now.wall - (now.mono_ns - frame.mono_ns) * 1e-9,
            boot=self._identity.boot,
        )
        self._put(Priority.RESULT, message.seq, topic, message, now)

    def event(self, event: str, about: str, text: str) -> None:
        """Tell of something that happened now, and keep it in the journal."""
        pipeline = about if event == "pipeline" else ""
        _log.info("%s: %s", about, text, extra=journal.fields(pipeline=pipeline, event=event))
        now = self._now()
        message = wire.EventMessage(
            device=self._identity.device,
            epoch=self._identity.epoch,
            seq=self._next_seq(),
            time=round(now.wall, 3),
            boot=self._identity.boot,
            mono_ns=now.mono_ns,
            event=event,
            about=about,
            text=text,
        )
        topic = wire.event(self._identity.device)
        self._put(Priority.EVENT, message.seq, topic, message, now)

    def health(self, make: Callable[[int], wire.HealthMessage]) -> wire.HealthMessage:
        """Send the health that `make` returns for a sequence number."""
        message = make(self._next_seq())
        topic = wire.health(self._identity.device)
        self._put(Priority.HEALTH, message.seq, topic, message, self._now())
        return message

    def _put(
        self, priority: Priority, seq: int, topic: str, message: wire.Struct, now: Moment
    ) -> None:
        self._outbox.put(
            Entry(
                priority,
                self._identity.epoch,
                seq,
                topic,
                wire.encode(message),
                now.wall,
                now.mono_ns,
                self._identity.boot,
            )
        )

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq - 1
