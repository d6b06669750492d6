"""Two networks compared on the same random inputs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from edgetrt.errors import AccuracyError, ModelError
from edgetrt.model.graph import Graph, tensor_spec
from edgetrt.model.reference import Reference

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgetrt.types import TensorSpec

TOLERANCE = 1e-4
"""Largest difference allowed, as a part of the output's largest value: float32 sums in another order."""

_MAX_PROTO_BYTES = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Proof:
    """How far two networks were apart.

    Attributes:
        runs: random inputs that were tried.
        max_abs: largest difference of any output element.
        max_relative: the same as a part of that output's largest value.
        tolerance: what `max_relative` had to stay within.
    """

    runs: int
    max_abs: float
    max_relative: float
    tolerance: float


def prove(
    before: Graph, after: Graph, seed: int = 0, runs: int = 2, tolerance: float = TOLERANCE
) -> Proof:
    """Run both on the same random inputs.

    Raises:
        AccuracyError: an output differs by more than the tolerance, or in shape.
        ModelError: ONNX Runtime cannot load one of them, or an input has open dimensions.
    """
    random = np.random.default_rng(seed)
    specs = [tensor_spec(value) for value in after.inputs]
    first, second = _runner(before), _runner(after)
    worst_abs = worst_relative = 0.0
    for _ in range(runs):
        feed = {spec.name: _random(random, spec) for spec in specs}
        expected, got = first(feed), second(feed)
        for name, values in expected.items():
            gap, relative = _difference(name, values, got[name])
            worst_abs, worst_relative = max(worst_abs, gap), max(worst_relative, relative)
            if not relative <= tolerance:
                raise AccuracyError(
                    f"the rewritten network differs at {name!r} by {relative:.2g} of its largest value, "
                    f"at most {tolerance:.2g} is allowed",
                    "Turn rewrites off with --no-rewrite and report this network.",
                )
    return Proof(runs, worst_abs, worst_relative, tolerance)


def _runner(graph: Graph) -> Reference:
    """Load a graph from a file that is gone when it is loaded."""
    model = graph.to_model()
    if model.ByteSize() > _MAX_PROTO_BYTES:
        raise ModelError(
            "a network over 2 GiB cannot be compared in one piece", "Use --no-rewrite."
        )
    with tempfile.TemporaryDirectory(prefix="edgetrt-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        return Reference(path)


def _random(random: np.random.Generator, spec: TensorSpec) -> NDArray[Any]:
    """Values around zero for floats, small ones for the rest."""
    if min(spec.shape, default=1) < 0:
        raise ModelError(
            f"input {spec.name!r} has open dimensions {spec.shape}",
            "Fix them with --size or --batch.",
        )
    if spec.dtype.startswith("float"):
        return random.standard_normal(spec.shape).astype(spec.dtype)
    return random.integers(0, 2, spec.shape).astype(spec.dtype)


def _difference(name: str, expected: Any, got: Any) -> tuple[float, float]:
    """Largest difference, and the same as a part of the largest value."""
    left, right = np.asarray(expected), np.asarray(got)
    if left.shape != right.shape:
        raise AccuracyError(
            f"the rewritten network gives {name!r} as {right.shape}, expected {left.shape}",
            "Turn rewrites off with --no-rewrite and report this network.",
        )
    if left.dtype.kind not in "fiub" or not left.size:
        return 0.0, 0.0
    left, right = left.astype(np.float64), right.astype(np.float64)
    gap = float(np.abs(left - right).max())
    return gap, gap / max(float(np.abs(left).max()), 1e-12)
