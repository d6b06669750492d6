"""What an outsider sees of a device that is updated: its messages, and nothing else."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edgetrt import wire
from edgetrt.errors import EdgetrtError, MessageError


@dataclass(frozen=True)
class Result:
    """A result: when it arrived and was captured, its frame, frames dropped before it, its engine."""

    arrived_s: float
    mono_ns: int
    frame: int
    dropped: int
    engine: str


@dataclass(frozen=True)
class Gap:
    """What a switch between two engines cost.

    Attributes:
        largest_ms: between two results, captured around it.
        frame_ms: what is usual between two.
        dropped: frames around it that the source gave up, as live ones do while the machine is busy.
        lost: frames that gave no result and were not counted as dropped.
    """

    largest_ms: float
    frame_ms: float
    dropped: int
    lost: int


@dataclass
class Witness:
    """Keeps results and what the device reports of its updates.

    Attributes:
        results: all of them, in the order of arrival.
        report: the newest.
        states: when each state of each assignment was told first.
        online: whether the device says that it is there.
        alive: says what is wrong with its processes; empty = nothing.
    """

    results: list[Result] = field(default_factory=list)
    report: wire.UpdateReport = field(default_factory=wire.UpdateReport)
    states: list[tuple[float, int, str]] = field(default_factory=list)
    online: bool = False
    alive: Callable[[], str] = str

    def take(self, topic: str, payload: bytes) -> None:
        """Take note of a message."""
        try:
            message = wire.decode(wire.parse(topic).topic.kind, payload)
        except MessageError:
            return
        if isinstance(message, wire.ResultMessage):
            now_s, of = time.monotonic(), message
            self.results.append(Result(now_s, of.mono_ns, of.frame, of.dropped, of.engine))
        elif isinstance(message, wire.ReportedMessage) and message.update is not None:
            self.report = message.update
            now = (message.update.generation, message.update.code or message.update.state)
            if not self.states or self.states[-1][1:] != now:
                self.states.append((time.monotonic(), *now))
        elif isinstance(message, wire.StatusMessage):
            self.online = message.online

    async def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for something to be seen.

        Raises:
            EdgetrtError: a process ended, or it was not seen in time.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if wrong := self.alive():
                raise EdgetrtError(f"{what}: {wrong}", "See its log with --keep.")
            if time.monotonic() > deadline:
                now = self.report
                at = f"{now.state} {now.code} {now.held} {now.detail} {now.fault}".split()
                raise EdgetrtError(
                    f"{what}: not seen within {seconds:.0f} s; the update is at {' '.join(at) or 'nothing'}",
                    "Is this machine very busy? See the logs with --keep.",
                )
            await asyncio.sleep(0.02)

    async def more(self, than: int, seconds: float, what: str) -> None:
        """Wait for more results than so many; raises as `until`."""
        await self.until(lambda: len(self.results) > than, seconds, what)

    @property
    def engine(self) -> str:
        """What made the newest result."""
        return self.results[-1].engine if self.results else ""

    def way(self, generation: int, since_s: float) -> tuple[tuple[str, float], ...]:
        """The states that an assignment went through, and when, in seconds since a moment."""
        seen = [one for one in self.states if one[1] == generation and one[0] >= since_s]
        return tuple((state, round(at_s - since_s, 2)) for at_s, _, state in seen)

    def gap_at(self, first: Result, around_s: float = 2.0) -> Gap:
        """What the switch cost that this was the first result after."""
        near = [one for one in self.results if abs(one.mono_ns - first.mono_ns) <= around_s * 1e9]
        near.sort(key=lambda one: one.mono_ns)
        gaps = [(b.mono_ns - a.mono_ns) * 1e-6 for a, b in itertools.pairwise(near)]
        missing = near[-1].frame - near[0].frame + 1 - len(near)
        dropped = near[-1].dropped - near[0].dropped
        usual = sorted(gaps)[len(gaps) // 2] if gaps else 0.0
        return Gap(max(gaps, default=0.0), usual, dropped, max(0, missing - dropped))
