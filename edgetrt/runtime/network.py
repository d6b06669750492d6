"""A loaded engine as the loop uses it: lanes to fill and run, and a task that reads the answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgetrt.ports import OverlappingSession
from edgetrt.types import Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from edgetrt.geometry import Fit
    from edgetrt.ports import Session
    from edgetrt.types import Output

DEVICE_RUNS = 2
"""The first run of a device's session is an ordinary one, the second is captured into a graph."""

WARM_SIZE = (480, 640)
"""Rows and columns of the picture that warms a network."""


class Input(Protocol):
    """Takes frames into a session's input, wherever that lies."""

    def write(self, frame: Frame) -> Fit:
        """Take a frame; returns where it lies in the tensor."""

    def close(self) -> None:
        """Free what it holds."""


class Task(Protocol):
    """Reads a network's output."""

    def decode(
        self, tensors: Mapping[str, NDArray[np.generic]], placed: Fit, size: tuple[int, int]
    ) -> Output:
        """Turn tensors into what they mean, copying whatever is kept.

        Raises:
            InferenceError: the output cannot be an answer (NaN).
        """

    def tuned(self, **limits: Any) -> Task:
        """The same with other limits, by their names in `edgetrt.config.TaskConfig`.

        Raises:
            ConfigError: it has no such limits, or cannot keep one.
        """


@dataclass(frozen=True)
class Lane:
    """One execution context with the preprocessor that writes into its input."""

    session: Session
    preprocessor: Input

    @cached_property
    def overlapping(self) -> OverlappingSession | None:
        """The session, when its work can be left running; asked once, because asking a Protocol is slow."""
        return self.session if isinstance(self.session, OverlappingSession) else None

    def close(self) -> None:
        """Free the context and what writes into it."""
        self.session.close()
        self.preprocessor.close()


@dataclass(frozen=True)
class Network:
    """An engine, ready to run; swapped as a whole between two frames.

    Attributes:
        fingerprint: of the engine, written into every result.
        backend: name of what runs it.
        labels: class names, by index.
        lanes: as many as frames may overlap.
        task: reads the output.
    """

    fingerprint: str
    backend: str
    labels: tuple[str, ...]
    lanes: tuple[Lane, ...]
    task: Task

    def warm(self) -> None:
        """Run each lane over a grey picture, so that the first real frame finds everything in place.

        Raises:
            InferenceError: it does not run.
        """
        grey = np.full((*WARM_SIZE, 3), 114, np.uint8)
        for lane in self.lanes:
            for number in range(1 if lane.overlapping is None else DEVICE_RUNS):
                lane.preprocessor.write(Frame(grey, "rgb", number, 0))
                lane.session.infer()

    def close(self) -> None:
        """Free every lane."""
        for lane in self.lanes:
            lane.close()


def assemble(
    session: Session,
    *,
    fingerprint: str,
    backend: str,
    labels: tuple[str, ...],
    task: Task,
    preprocessor: Callable[[Session], Input],
    depth: int,
) -> Network:
    """Build the lanes over a session and its twins.

    Raises:
        ModelError: its input is no image.
    """
    sessions = [session, *(session.twin() for _ in range(depth - 1))]
    lanes = tuple(Lane(s, preprocessor(s)) for s in sessions)
    return Network(fingerprint, backend, labels, lanes, task)
