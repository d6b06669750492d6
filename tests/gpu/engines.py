"""Engines made of Python functions, for sessions on any device."""

from __future__ import annotations

import ctypes

import numpy as np

from edgetrt.errors import InferenceError
from edgetrt.types import TensorSpec
from tests.fakes import FakeDevice, FakeStream

X, Y = TensorSpec("x", (1, 6), "float32"), TensorSpec("y", (1, 6), "float32")


class Doubling:
    """y = 2 x on a `FakeDevice`; `streams` are the device's, by handle, as the driver knows them."""

    inputs, outputs = (X,), (Y,)

    def __init__(self, device: FakeDevice, no_graph: str = "") -> None:
        self.no_graph = no_graph
        self.device = device
        self.addresses: dict[str, int] = {}
        self.refuse = False
        self.enqueued = self.closed = 0
        self.twins: list[Doubling] = []

    def bind(self, name: str, pointer: int) -> None:
        self.addresses[name] = pointer

    def enqueue(self, stream: int) -> None:
        if self.refuse:
            raise InferenceError("refused")
        self.enqueued += 1
        # In CPython an object's id is its address; FakeStream's handle is its id.
        found: FakeStream = ctypes.cast(stream, ctypes.py_object).value
        found.add(self._compute)

    def _compute(self) -> None:
        x, y = (
            np.ctypeslib.as_array((ctypes.c_float * 6).from_address(self.addresses[name]))
            for name in ("x", "y")
        )
        y[:] = x * 2

    def twin(self) -> Doubling:
        self.twins.append(Doubling(self.device, self.no_graph))
        return self.twins[-1]

    def close(self) -> None:
        self.closed += 1
