"""The ports `Prover` and `Headroom` of updates, over what the agent sees anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from edgetrt.agent.machine import machine
from edgetrt.types import BoardState
from edgetrt.update.prove import Observed, judge

if TYPE_CHECKING:
    from edgetrt.agent.watch import Watch
    from edgetrt.update.ports import Trial
    from edgetrt.update.record import Figures, Verdict

Board = Callable[[], BoardState]
"""How the board does now."""


class WatchProver:
    """Judges releases by what the runtime reports.

    Args:
        watch: keeps it.
        rates_hz: what each pipeline is asked for now.
        board: for its temperatures.
    """

    def __init__(
        self,
        watch: Watch,
        rates_hz: Callable[[], Mapping[str, float | None]] = dict,
        board: Board = BoardState,
    ) -> None:
        self._watch, self._rates_hz, self._board = watch, rates_hz, board
        self._trial = ""

    def figures(self) -> dict[str, Figures]:
        """As `Prover.figures`."""
        return self._watch.figures(self._rates_hz())

    def look(self, trial: Trial) -> Verdict | None:
        """As `Prover.look`. A trial that goes on after a restart of this process is begun anew."""
        name = f"{trial.digest}@{trial.entered_at}"
        if self._trial != name:
            self._trial = name
            made = {part.name: part.engine for part in trial.built.pipelines} if trial.built else {}
            self._watch.begin(
                {part.name: made.get(part.name, "") for part in trial.release.pipelines}
            )
            return None
        heat = self._watch.heat(max(self._board().temperatures_c.values(), default=None))
        pipelines, watched_s = self._watch.trial(self._rates_hz())
        seen = Observed(
            pipelines=pipelines,
            memory_mb=self._watch.memory_mb,
            temperature_c=heat,
            watched_s=watched_s,
            log=self._watch.log,
        )
        verdict = judge(trial.release, trial.built, trial.before, seen)
        if verdict is not None:
            self._watch.end()
        return verdict


class BoardHeadroom:
    """Whether this board is cool and has memory; what it does not tell is no objection.

    Args:
        board: tells it.
        least_c: nearer to where it slows itself down, nothing is switched.
        least_mb: with less memory available, nothing is switched.
        available_bytes: memory.
    """

    def __init__(
        self,
        board: Board,
        least_c: float = 3.0,
        least_mb: float = 100.0,
        available_bytes: Callable[[], int | None] = lambda: machine(None).memory_available,
    ) -> None:
        self._board, self._least_c, self._least_mb = board, least_c, least_mb
        self._available_bytes = available_bytes
        self._overcurrents: int | None = None

    def lacking(self) -> str:
        """As `Headroom.lacking`; in words that stay the same while it lacks the same."""
        state = self._board()
        before, self._overcurrents = self._overcurrents, state.overcurrents
        if state.headroom_c is not None and state.headroom_c < self._least_c:
            return f"heat: less than {self._least_c:g} °C below where the board slows down"
        if before is not None and (state.overcurrents or 0) > before:
            return "power: the board slows down because it draws too much current"
        available = self._available_bytes()
        if available is not None and available < self._least_mb * 1e6:
            return f"memory: less than {self._least_mb:g} MB available"
        return ""
