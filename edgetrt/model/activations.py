"""What the tensors of a network really hold, measured on frames.

Memory is bounded: the tensors are watched in groups that fit a budget, one pass over the frames per
group, and of each tensor only its extremes, its power and a histogram are kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgetrt.model.reference import Feed, Reference
from edgetrt.model.storage import copy_weights
from edgetrt.model.wiring import Wiring, captured

BUDGET_BYTES = 128 << 20
BINS = 2048


@dataclass
class Activation:
    """One tensor over all frames.

    Attributes:
        low: smallest finite value.
        high: largest finite value.
        finite: False when a NaN or an infinity was seen.
        power: mean square.
        channels: largest magnitude in each channel (axis 1); empty below rank 3.
        counts: histogram of magnitudes, `BINS` bins of `width` from 0 up; empty when not asked for.
        width: of one bin.
    """

    low: float = np.inf
    high: float = -np.inf
    finite: bool = True
    power: float = 0.0
    channels: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    width: float = 0.0
    _values: int = 0

    @property
    def peak(self) -> float:
        """Largest magnitude; 0 when nothing was seen."""
        return max(abs(self.low), abs(self.high)) if self._values else 0.0

    def add(self, values: NDArray[Any], histogram: bool) -> None:
        """Take in one frame's values."""
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            self.finite = False
            values = np.where(np.isfinite(values), values, 0)
            low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        flat = values.reshape(-1)
        total = self.power * self._values + float(np.dot(flat, flat))
        self._values += flat.size
        self.power = total / self._values
        if values.ndim > 2:
            axes = tuple(axis for axis in range(values.ndim) if axis != 1)
            peaks = np.maximum(values.max(axes), -values.min(axes))
            same = peaks.shape == self.channels.shape
            self.channels = np.maximum(self.channels, peaks) if same else peaks
        if histogram:
            self._count(np.abs(flat))

    def _count(self, magnitudes: NDArray[Any]) -> None:
        """Add to the histogram; a new peak doubles the bins' width until it fits."""
        if not self.counts.size:
            self.counts, self.width = np.zeros(BINS, np.int64), 0.0
        peak = float(magnitudes.max())
        if peak == 0:
            self.counts[0] += magnitudes.size
            return
        if self.width == 0:
            self.width = peak / BINS
        while peak > self.width * BINS:
            self.counts = np.concatenate(
                (self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64))
            )
            self.width *= 2
        index = np.minimum((magnitudes / self.width).astype(np.int32), BINS - 1)
        self.counts += np.bincount(index, minlength=BINS)


def measure(
    model: onnx.ModelProto,
    frames: Collection[Feed],
    tensors: Collection[str] | None = None,
    histogram: bool = False,
    budget_bytes: int = BUDGET_BYTES,
) -> dict[str, Activation]:
    """Run a network over frames and watch its floating-point tensors.

    Args:
        model: a skeleton.
        frames: feeds; read once per group of tensors.
        tensors: which to watch; None for all of them, inputs included.
        histogram: also count magnitudes, as entropy and percentile calibration need.
        budget_bytes: how much the tensors watched in one pass may hold.

    Raises:
        ModelError: ONNX Runtime cannot load the network.
        InferenceError: it fails on a frame.
    """
    wiring = Wiring(model)
    wanted = wiring.activations() if tensors is None else list(tensors)
    found = {name: Activation() for name in wanted}
    inputs = {value.name for value in model.graph.input}
    with tempfile.TemporaryDirectory(prefix="edgetrt-") as work:
        light = copy_weights(model, Path(work) / "weights.bin")
        groups = list(_groups([n for n in wanted if n not in inputs], wiring.shapes, budget_bytes))
        for number, group in enumerate(groups or [[]]):
            path = Path(work) / f"group{number}.onnx"
            path.write_bytes(_exposing(light, group).SerializeToString())
            session = Reference(path, lean=True)
            for feed in frames:
                seen: Mapping[str, NDArray[Any]] = session(feed)
                if number == 0:
                    seen = {**{name: feed[name] for name in inputs & found.keys()}, **seen}
                for name in seen.keys() & found.keys():
                    found[name].add(seen[name], histogram)
            del session
    return found


def _groups(
    names: list[str], shapes: Mapping[str, tuple[int, ...]], budget_bytes: int
) -> Iterator[list[str]]:
    """Cut a list of tensors into runs that stay within the budget; an unknown size counts 1 MiB."""
    group: list[str] = []
    held = 0
    for name in names:
        shape = shapes.get(name)
        size = 1 << 20 if shape is None else 4 * int(np.prod([abs(d) for d in shape]))
        if group and held + size > budget_bytes:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group


def _exposing(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The part of a network that makes these float tensors; all of it when there are none."""
    if not names:
        return model
    own = {value.name: value for value in model.graph.output}
    needed, nodes = set(names), []
    for node in reversed(model.graph.node):
        if any(name in needed for name in node.output):
            needed.update((*node.input, *captured(node)))
            nodes.append(node)
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.node[:], shown.graph.output[:]
    shown.graph.node.extend(reversed(nodes))
    shown.graph.output.extend(
        own.get(n) or onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None)
        for n in names
    )
    return shown
