"""From measured activations to the range that 8 bits shall cover.

The whole range keeps outliers and wastes steps on them; `percentile` cuts a fixed share of the values;
`entropy` cuts where the quantized distribution tells least wrong about the real one, by the
Kullback-Leibler divergence (S. Migacz, "8-bit Inference with TensorRT", GTC 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgetrt.model.activations import Activation

Method = Literal["minmax", "entropy", "percentile"]

LEVELS = 128
SHARE = 0.99999
_STRIDE = 16

Limits = Mapping[str, tuple[float, float]]
"""Lowest and highest value that 8 bits shall cover, by tensor."""


def limits_of(activations: Mapping[str, Activation], method: Method = "minmax") -> Limits:
    """The range to quantize for each tensor that held finite values; always contains 0.

    `entropy` and `percentile` need activations that were measured with a histogram.
    """
    out = {}
    for name, seen in activations.items():
        if not np.isfinite(seen.low) or not np.isfinite(seen.high):
            continue
        cut = _cut(seen, method)
        out[name] = (min(0.0, max(seen.low, -cut)), max(0.0, min(seen.high, cut)))
    return out


def _cut(seen: Activation, method: Method) -> float:
    """Largest magnitude to keep."""
    if method == "minmax" or not seen.counts.any():
        return seen.peak
    if method == "percentile":
        reached = np.cumsum(seen.counts) / seen.counts.sum()
        return float((np.searchsorted(reached, SHARE) + 1) * seen.width)
    used = int(np.flatnonzero(seen.counts)[-1]) + 1
    if used <= LEVELS:
        return seen.peak
    candidates = [*range(LEVELS, used, _STRIDE), used]
    losses = [divergence(seen.counts[:used], size) for size in candidates]
    return float(min(seen.peak, candidates[int(np.argmin(losses))] * seen.width))


def divergence(counts: NDArray[np.int64], size: int) -> float:
    """How wrong `LEVELS` levels over the first `size` bins tell the distribution `counts`.

    What lies beyond is clipped into the last bin of the reference; the levels spread their count evenly
    over those of their bins that are not empty. Bin 0 (exact zeros, mostly) is left out: any choice of
    range represents zero exactly.
    """
    kept = counts[:size].astype(np.float64)
    kept[0] = 0.0
    clipped = kept.copy()
    clipped[-1] += counts[size:].sum()
    edges = np.linspace(0, size, LEVELS + 1).astype(np.int64)[:-1]
    sums = np.add.reduceat(kept, edges)
    filled = np.add.reduceat((kept > 0).astype(np.float64), edges)
    level = np.searchsorted(edges, np.arange(size), side="right") - 1
    even = np.divide(sums, filled, out=np.zeros_like(sums), where=filled > 0)[level]
    quantized = np.where(kept > 0, even, 0.0)
    if not clipped.any() or not quantized.any():
        return 0.0
    p, q = clipped / clipped.sum(), quantized / quantized.sum()
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))))
