"""From the nested phases of a build to one fraction that only grows. Pure, and safe to share."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class PhaseTree:
    """The open phases of a build; TensorRT reports them from several threads."""

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._best = 0.0
        self._lock = threading.Lock()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps began, inside another one or on its own."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(steps, 1))

    def step(self, name: str, step: int) -> float:
        """Step number `step` (from 0) of a phase is done; returns the fraction of the whole."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None:
                phase.done = max(phase.done, min(step + 1, phase.steps))
            return self._fraction()

    def finish(self, name: str) -> float:
        """A phase ended, perhaps before its last step; returns the fraction of the whole."""
        with self._lock:
            phase = self._phases.pop(name, None)
            if phase is not None and phase.parent not in self._phases:
                self._best = max(self._best, 1.0 if phase.parent is None else self._best)
            return self._fraction()

    def _fraction(self) -> float:
        roots = [name for name, phase in self._phases.items() if phase.parent not in self._phases]
        now = max((self._of(name, frozenset()) for name in roots), default=self._best)
        self._best = min(max(self._best, now), 1.0)
        return self._best

    def _of(self, name: str, above: frozenset[str]) -> float:
        """A phase's own steps, and of the running one as much as its furthest child has done."""
        phase = self._phases[name]
        inside = [
            self._of(child, above | {name})
            for child, below in self._phases.items()
            if below.parent == name and child not in above
        ]
        partial = max(inside, default=0.0) if phase.done < phase.steps else 0.0
        return min((phase.done + partial) / phase.steps, 1.0)
