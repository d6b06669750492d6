"""A message on its way to the broker."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import msgspec

_OVERHEAD = 96
"""Bytes of a row beside topic and payload, roughly."""


class Priority(enum.IntEnum):
    """The classes of messages, the most important first."""

    EVENT = 0
    HEALTH = 1
    RESULT = 2

    # Enum's own hash is written in Python, and these are keys at every step of a message.
    __hash__ = int.__hash__

    @property
    def label(self) -> str:
        """As written in a config and in health."""
        return self.name.lower()


Key = tuple[int, int]
"""Epoch and sequence number: the place in the order, and what a receiver tells messages apart by."""


class Entry(msgspec.Struct, frozen=True):
    """A message that waits for its acknowledgement.

    Attributes:
        priority: its class.
        epoch: of the agent that made it.
        seq: its number within the epoch.
        wall: seconds since 1970 when it was made, by the clock of that moment.
        mono_ns: the same by the monotonic clock.
        boot: which boot `mono_ns` belongs to.
        topic: where it goes.
        payload: what it says.
    """

    priority: Priority
    epoch: int
    seq: int
    topic: str
    payload: bytes
    wall: float = 0.0
    mono_ns: int = 0
    boot: str = ""

    @property
    def key(self) -> Key:
        """Its place in the order."""
        return self.epoch, self.seq

    @property
    def size(self) -> int:
        """Bytes that it takes in a store."""
        return len(self.payload) + len(self.topic) + _OVERHEAD


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, by both clocks."""

    wall: float
    mono_ns: int
    boot: str


def age_s(entry_wall: float, entry_mono_ns: int, entry_boot: str, now: Moment) -> float:
    """How old something is; 0 when no clock can tell.

    Within a boot the monotonic clock counts. Across boots the wall clock does, unless it had not been
    set at one of the two moments: an entry of 1970 is not fifty years old.
    """
    if entry_boot == now.boot:
        return max(0.0, (now.mono_ns - entry_mono_ns) * 1e-9)
    if min(entry_wall, now.wall) < EARLIEST_S:
        return 0.0
    return max(0.0, now.wall - entry_wall)


EARLIEST_S = 1_700_000_000.0
"""November 2023, before the first release: a clock that says less has not been set."""
