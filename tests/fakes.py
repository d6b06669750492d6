"""Stand-ins for every port: small, deterministic, and able to be told to fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import EdgetrtError, InferenceError
from edgetrt.ports import EndOfStream
from edgetrt.types import Frame, Result, Shape, TensorSpec

Compute = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]


def doubled(buffers: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """What a `FakeBackend` computes when not told otherwise: y = 2 x."""
    return {"y": buffers["x"] * 2}


class FakeBackend:
    """A backend whose network is a Python function.

    Args:
        name: of the backend.
        inputs: the network's inputs; a leading -1 becomes 1, as in the real ones.
        outputs: the network's outputs.
        compute: from the input buffers to arrays of the outputs' shapes.
        error: raised by `load` when given.
        delay_s: how long each `infer` takes.

    Attributes:
        fail_next: so many of the next runs raise InferenceError.
        loads: calls of `load` that succeeded.
        open: sessions, twins included, that are not closed yet.
    """

    version = "1.0"

    def __init__(
        self,
        name: str = "fake",
        inputs: tuple[TensorSpec, ...] = (TensorSpec("x", (-1, 4), "float32"),),
        outputs: tuple[TensorSpec, ...] = (TensorSpec("y", (1, 4), "float32"),),
        compute: Compute = doubled,
        error: EdgetrtError | None = None,
        delay_s: float = 0.0,
    ) -> None:
        self.name = name
        self.fail_next = 0
        self.loads = 0
        self.open = 0
        self.delay_s = delay_s
        self.compute = compute
        self.outputs = outputs
        self._inputs = inputs
        self._error = error

    def load(
        self, model: Path, threads: int = 0, shapes: Mapping[str, Shape] | None = None
    ) -> FakeSession:
        if self._error is not None:
            raise self._error
        self.loads += 1
        sizes = shapes or {}
        inputs = tuple(
            replace(spec, shape=sizes.get(spec.name, tuple(abs(size) for size in spec.shape)))
            for spec in self._inputs
        )
        return FakeSession(self, inputs)


class FakeSession:
    """A session of a `FakeBackend`; `infer` fails while the backend's `fail_next` lasts."""

    def __init__(self, backend: FakeBackend, inputs: tuple[TensorSpec, ...]) -> None:
        self.inputs = inputs
        self.outputs = backend.outputs
        self.buffers = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in inputs}
        self._results = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in self.outputs}
        self._backend: FakeBackend | None = backend
        backend.open += 1

    def infer(self) -> Mapping[str, NDArray[Any]]:
        backend = self._backend
        if backend is None:
            raise InferenceError("fake: the session is closed")
        if backend.fail_next > 0:
            backend.fail_next -= 1
            raise InferenceError("fake: told to fail")
        if backend.delay_s:
            time.sleep(backend.delay_s)
        for name, value in backend.compute(self.buffers).items():
            self._results[name][...] = value
        return self._results

    def twin(self) -> FakeSession:
        if self._backend is None:
            raise InferenceError("fake: the session is closed")
        return FakeSession(self._backend, self.inputs)

    def close(self) -> None:
        if self._backend is not None:
            self._backend.open -= 1
        self._backend = None


class FakeClock:
    """Time that moves only when told to, or when somebody sleeps.

    Args:
        oversleep_s: how much longer than asked for each sleep takes.
    """

    def __init__(self, oversleep_s: float = 0.0) -> None:
        self.now_ns = 1_000_000_000
        self.oversleep_s = oversleep_s

    def monotonic_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.advance(seconds + self.oversleep_s)

    def advance(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


TIMEOUT = "timeout"
"""In a `FakeSource`'s script: no frame came in time."""


class FakeSource:
    """A source that delivers what it was given.

    Args:
        script: in turn: a frame to give, `TIMEOUT`, or an error to raise; then the stream ends.
        live: as the port says.
    """

    def __init__(self, script: Iterable[Frame | str | Exception], live: bool = False) -> None:
        self._script = iter(script)
        self.live = live
        self.reconnects = 0
        self.closed = 0

    def read(self, timeout_s: float) -> Frame | None:
        item = EndOfStream() if self.closed else next(self._script, EndOfStream())
        if isinstance(item, Exception):
            raise item
        return None if isinstance(item, str) else item

    def close(self) -> None:
        self.closed += 1


class FakeSink:
    """A sink that remembers; refuses results while `full`."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.full = False
        self.closed = 0

    def put(self, result: Result) -> bool:
        if not self.full and not self.closed:
            self.results.append(result)
        return not self.full and not self.closed

    def close(self) -> None:
        self.closed += 1
