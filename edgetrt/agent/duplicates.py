"""Finds a second agent with this device's identity, as after a copied memory card.

Each throws the other out at the broker. Some brokers say so; with all of them the retained status has
another agent's birth in it when we come back, where ours should still be.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from edgetrt import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetrt.agent.entry import Moment
    from edgetrt.agent.identity import Identity
    from edgetrt.ports import Message

_SPAN_NS = 3600 * 10**9


class DuplicateIdentity:
    """Counts how often somebody else was here under our name.

    Args:
        identity: who we are.
        now: by both clocks.
    """

    def __init__(self, identity: Identity, now: Callable[[], Moment]) -> None:
        self._identity = identity
        self._now = now
        self._ours: deque[bytes] = deque(maxlen=8)
        self._seen: deque[int] = deque(maxlen=1000)
        self._epochs: set[int] = set()

    def said(self, birth: bytes) -> None:
        """Remember a birth of ours, which the broker keeps from now on."""
        self._ours.append(birth)

    def taken_over(self) -> None:
        """The broker said that it gave our session to somebody else."""
        self._seen.append(self._now().mono_ns)

    def heard(self, message: Message) -> None:
        """Look at our own status as the broker kept it, before we say it anew.

        Raises:
            MessageError: it is no status.
        """
        status = wire.decode(wire.StatusMessage, message.payload)
        # Before our first birth it is that of the run before. A last will is of one that has gone.
        if self._ours and message.retained and status.online and message.payload not in self._ours:
            self._epochs.add(status.epoch)
            self.taken_over()

    def reasons(self) -> tuple[wire.Reason, ...]:
        """Why the device is not well, if so. Once is nothing: `edgetrt provision` connects as us, too."""
        since_ns = self._now().mono_ns - _SPAN_NS
        while self._seen and self._seen[0] < since_ns:
            self._seen.popleft()
        if len(self._seen) < 2:
            return ()
        others = f", epoch {', '.join(map(str, sorted(self._epochs)))}" if self._epochs else ""
        text = (
            f"another agent has the name {self._identity.device!r} and was here {len(self._seen)} times in "
            f"the last hour{others}; this one's epoch is {self._identity.epoch}"
        )
        return (wire.Reason(state="degraded", code="identity", about="broker", text=text),)
