"""Input and output tensors, allocated and described alike by every backend on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import ModelError
from edgetrt.types import Shape, TensorSpec

Tensors = dict[str, NDArray[Any]]

_ALIGNMENT_BYTES = 64  # a cache line, and the widest vector register (AVX-512)


def check_file(model: Path) -> None:
    """Refuse what cannot be a network file, before a library gives its own view of it.

    Raises:
        ModelError: the file is missing, is no file, or is empty.
    """
    if not model.exists():
        raise ModelError(f"{model}: no such file", "Check the path to the network.")
    if not model.is_file():
        raise ModelError(f"{model}: expected a network file, got a folder", "Name the .onnx file.")
    if model.stat().st_size == 0:
        raise ModelError(f"{model}: the file is empty", "Copy or export the network again.")


def fixed(
    model: Path, specs: Iterable[TensorSpec], shapes: Mapping[str, Shape] | None
) -> tuple[TensorSpec, ...]:
    """Give every dynamic dimension a size: the caller's, or 1 for a leading one (the batch).

    Raises:
        ModelError: a shape that does not fit the network, or a dimension that nobody gave a size.
    """
    return tuple(_fix(model, spec, (shapes or {}).get(spec.name)) for spec in specs)


def _fix(model: Path, spec: TensorSpec, wish: Shape | None) -> TensorSpec:
    if wish is None:
        shape = tuple(1 if i == 0 and n < 0 else n for i, n in enumerate(spec.shape))
        if -1 in shape:
            raise ModelError(
                f"{model}: input '{spec.name}' has dynamic dimensions: {list(spec.shape)}",
                "Give the sizes it shall run with, or export the network with a fixed input size.",
            )
        return TensorSpec(spec.name, shape, spec.dtype)
    fits = len(wish) == len(spec.shape) and all(
        size > 0 and own in (-1, size) for size, own in zip(wish, spec.shape, strict=True)
    )
    if not fits:
        raise ModelError(
            f"{model}: input '{spec.name}' takes {list(spec.shape)}, got {list(wish)}",
            "Only the dimensions shown as -1 can be chosen.",
        )
    return TensorSpec(spec.name, tuple(wish), spec.dtype)


def allocate(specs: Iterable[TensorSpec]) -> Tensors:
    """One zeroed C-contiguous array for each spec whose shape is known, at a cache line's start."""
    return {spec.name: _aligned(spec) for spec in specs if -1 not in spec.shape}


def _aligned(spec: TensorSpec) -> NDArray[Any]:
    dtype = np.dtype(spec.dtype)
    size = int(np.prod(spec.shape, dtype=np.int64)) * dtype.itemsize
    raw = np.zeros(size + _ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT_BYTES
    return raw[start : start + size].view(dtype).reshape(spec.shape)
