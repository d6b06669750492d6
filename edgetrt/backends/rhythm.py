"""How to wait for a frame: asleep for most of its time, awake at its end. Pure.

A thread that the driver wakes comes late, by a tenth of a millisecond and more. One that sleeps a bit less
than the frame usually takes and then keeps asking is not late, and keeps a core busy for that bit only.
Where others want the interpreter or the core meanwhile, it lets the driver wake it.
"""

from __future__ import annotations

LEAD_NS = 75_000
"""How long before its usual end a frame is asked after: a sleep of Linux overshoots by 50 to 60 µs."""

PATIENCE_NS = 50_000
"""How long to ask at most; a frame that takes longer is waited for asleep."""

CONTENDED_NS = 10_000
"""A yield that takes longer than this gave way to somebody: alone, it takes half a µs."""

_SHORTEST_NS = 40_000
"""A sleep shorter than this is not worth its overshoot."""

_SHARE = 1 / 4
"""Of the newest frame in what is usual."""

_STEP_NS = 20_000
"""By how much less is slept at most after a frame that was over already (else by a quarter); twice as much
each time that it happens again."""

_FEWEST, _MOST = 8, 2048
"""How many frames are waited for asleep after one in which somebody else had work to do: four times as
many each time that it happens again, half as many after each time that it did not."""


class Rhythm:
    """Learns how long frames take, all in nanoseconds."""

    def __init__(self) -> None:
        self._usual = 0.0
        self._asleep, self._penalty = 0, _FEWEST
        self._step = _STEP_NS

    def look_out(self) -> bool:
        """Say whether to look out for the next frame, or to be woken."""
        self._asleep = max(0, self._asleep - 1)
        return not self._asleep

    def sleep_ns(self, since_ns: int) -> int:
        """How long to sleep before asking for a frame that was started so long ago; 0: ask at once."""
        nap = int(self._usual) - since_ns - LEAD_NS
        return nap if nap >= _SHORTEST_NS else 0

    def learn(self, took_ns: int) -> None:
        """Take in how long a frame took, from its start until it was seen to be done."""
        self._usual += (took_ns - self._usual) * (_SHARE if self._usual else 1)
        self._penalty = max(_FEWEST, self._penalty // 2)
        self._step = _STEP_NS

    def overslept(self) -> None:
        """Take in that a frame was over after the sleep, nobody knows for how long."""
        self._usual -= min(self._usual / 4, self._step)
        self._step *= 2

    def give_way(self) -> None:
        """Take in that somebody else had work to do while this thread asked."""
        self._asleep = self._penalty + 1
        self._penalty = min(_MOST, self._penalty * 4)
