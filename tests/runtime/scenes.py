"""Frames and networks small enough to follow by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetrt.config import PreprocessConfig
from edgetrt.errors import InferenceError
from edgetrt.geometry import Fit
from edgetrt.runtime.network import Network, assemble
from edgetrt.runtime.preprocess import Preprocessor
from edgetrt.types import Frame, RawOutput, TensorSpec
from tests.fakes import FakeBackend


def frame(seq: int, captured_ns: int = 0) -> Frame:
    """A grey 4×4 picture whose every pixel is the frame's number."""
    return Frame(np.full((4, 4, 3), seq % 256, np.uint8), "rgb", seq, captured_ns)


def frames(*numbers: int) -> list[Frame]:
    return [frame(n) for n in numbers]


class Mean:
    """A task whose answer is the mean of the output; refuses NaN."""

    def decode(
        self, tensors: Mapping[str, NDArray[Any]], placed: Fit, size: tuple[int, int]
    ) -> RawOutput:
        value = np.array(tensors["y"].mean())
        if np.isnan(value):
            raise InferenceError("the mean is NaN")
        return RawOutput({"mean": value})


def backend(**options: Any) -> FakeBackend:
    """A network that gives the pixel back, so that a result tells which frame it came from."""
    return FakeBackend(
        inputs=(TensorSpec("x", (1, 3, 4, 4), "float32"),),
        outputs=(TensorSpec("y", (1,), "float32"),),
        **{"compute": lambda b: {"y": b["x"].mean(keepdims=True).reshape(1)}, **options},
    )


def network(
    made_by: FakeBackend | None = None, depth: int = 1, fingerprint: str = "first"
) -> Network:
    from pathlib import Path

    made_by = made_by or backend()
    return assemble(
        made_by.load(Path("fake")),
        fingerprint=fingerprint,
        backend=made_by.name,
        labels=("thing",),
        task=Mean(),
        preprocessor=lambda s: Preprocessor(
            s.inputs[0], s.buffers["x"], PreprocessConfig(scale=1.0)
        ),
        depth=depth,
    )


def answer(output: object) -> int:
    """The frame number that a result was computed from."""
    assert isinstance(output, RawOutput)
    return round(float(output.tensors["mean"]))
