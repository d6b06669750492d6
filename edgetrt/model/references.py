"""Weights that lie in a file: where, and how to read them without holding them.

ONNX calls it external data (https://github.com/onnx/onnx/blob/main/docs/ExternalData.md). While a
network is worked on the location is absolute, and may be the network's own file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray

from edgetrt.errors import ModelError

INLINE_BYTES = 1024
"""Weights up to this size stay in the graph: shapes, axes, scalars, which shape inference reads."""

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a weight lie."""

    file: Path
    offset: int
    length: int


def place_of(tensor: onnx.TensorProto) -> Place:
    """Where a reference points."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return Place(Path(entries["location"]), int(entries.get("offset", 0)), int(entries["length"]))


def refer(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Make a weight refer to bytes of a file instead of holding its own."""
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def copy_bytes(place: Place, out: BinaryIO) -> None:
    """Append a weight's bytes to a file, block by block.

    Raises:
        ModelError: the file they lie in has become shorter.
    """
    with place.file.open("rb") as file:
        file.seek(place.offset)
        left = place.length
        while left:
            block = file.read(min(left, _BLOCK_BYTES))
            if not block:
                raise ModelError(f"{place.file}: shorter than its network says", "Copy it again.")
            out.write(block)
            left -= len(block)


def is_reference(tensor: onnx.TensorProto) -> bool:
    """True when a weight's bytes lie in a file instead of in the graph."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def array_of(tensor: onnx.TensorProto) -> NDArray[Any]:
    """A weight's values; those of a reference are mapped from the file, not read."""
    if not is_reference(tensor):
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    place = place_of(tensor)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    count = int(np.prod(tensor.dims, dtype=np.int64))
    if count == 0:
        return np.zeros(tuple(tensor.dims), dtype)
    return np.memmap(place.file, dtype, "r", place.offset, tuple(tensor.dims))


def refer_beside(tensor: onnx.TensorProto, path: Path) -> None:
    """Make a network's own external reference absolute, after checking that it is sound.

    Raises:
        ModelError: outside the network's folder, missing, or too short.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = (path.parent / entries.get("location", "")).resolve()
    if not file.is_relative_to(path.parent):
        raise ModelError(
            f"{path}: weight {tensor.name} lies outside the network's folder, in {file}",
            "Keep the weights beside the network.",
        )
    if not file.is_file():
        raise ModelError(
            f"{path}: weight {tensor.name} is in {file}, which is missing",
            "Copy the weights file together with the network.",
        )
    item = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    length = int(entries.get("length", item * int(np.prod(tensor.dims, dtype=np.int64))))
    offset = int(entries.get("offset", 0))
    if offset + length > file.stat().st_size:
        raise ModelError(
            f"{file}: too short for weight {tensor.name}: expected {offset + length} bytes, "
            f"got {file.stat().st_size}",
            "Copy the weights file again.",
        )
    refer(tensor, str(file), offset, length)
    if length <= INLINE_BYTES:
        _take_in(tensor)


def _take_in(tensor: onnx.TensorProto) -> None:
    """Read a small weight into the graph, where shape inference looks for it."""
    raw = array_of(tensor).tobytes()
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = raw
