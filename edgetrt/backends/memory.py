"""Which memory a GPU's sessions use: decided by running the engine both ways, and remembered."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetrt.backends.choose import recall, remember

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgetrt.backends.device_session import Memory
    from edgetrt.ports import Clock, OverlappingSession

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryChoice:
    """What a measurement of both kinds of memory said, for the engine's manifest."""

    memory: Memory
    mapped_ms: float
    copied_ms: float


def choose_memory(
    load: Callable[[Memory], OverlappingSession], clock: Clock, frames: int = 50
) -> MemoryChoice:
    """Run an engine with mapped and with copied buffers, and take the faster (copied when equal).

    Args:
        load: opens the engine with the kind of memory; what it returns is closed here.
        clock: time.
        frames: timed inferences of each; the median counts.
    """

    def median_ms(memory: Memory) -> float:
        session = load(memory)
        try:
            for _ in range(3):
                session.infer()
            times = []
            for _ in range(frames):
                start = clock.monotonic_ns()
                session.infer()
                times.append(clock.monotonic_ns() - start)
        finally:
            session.close()
        return sorted(times)[len(times) // 2] / 1e6

    copied, mapped = median_ms("copied"), median_ms("mapped")
    return MemoryChoice("mapped" if mapped < copied else "copied", mapped, copied)


def remembered(store: Path, key: str, trial: Callable[[], MemoryChoice]) -> Memory:
    """What was chosen for a key before, else what a trial says now.

    Args:
        store: file of the choices; one that is damaged or cannot be written costs a new trial.
        key: engine, GPU and version.
        trial: measures.
    """
    choices = recall(store)
    if choices.get(key) == "mapped":
        return "mapped"
    if choices.get(key) == "copied":
        return "copied"
    found = trial()
    remember(store, {**choices, key: found.memory})
    log.info(
        "%s memory: %.3f ms mapped, %.3f ms copied", found.memory, found.mapped_ms, found.copied_ms
    )
    return found.memory
