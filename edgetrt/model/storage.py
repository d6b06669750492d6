"""ONNX files read and written without holding their weights in memory.

A network is handled as its *skeleton*: the graph, in which every large weight is a reference
(absolute file, offset, length) into the file it came from. A protobuf message is a row of tagged
fields, so the weights can be stepped over in a memory map instead of being parsed. Field numbers:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
from numpy.typing import NDArray

from edgetrt.errors import ModelError
from edgetrt.model.references import (
    INLINE_BYTES,
    Place,
    copy_bytes,
    is_reference,
    place_of,
    refer,
    refer_beside,
)
from edgetrt.model.wire_format import LENGTH_DELIMITED, Field, fields, tag
from edgetrt.types import TensorSpec

EMBED_BYTES = 1 << 30
"""Weights above this total go to a file beside the network; a protobuf message ends at 2 GiB."""

OLDEST_OPSET = 11
"""Clip, Pad and Resize took their limits as attributes before."""

_GRAPH, _INITIALIZER, _RAW = 7, 5, 9
_PAGE = 4096


def read_skeleton(path: Path) -> onnx.ModelProto:
    """Read a network's graph; weights above `INLINE_BYTES` become references to absolute files.

    Raises:
        ModelError: missing, not ONNX, or its weights point outside its folder or past a file's end.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            model = _parse(data, path.resolve())
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file", "Check the path of the network.") from None
    except (OSError, ValueError, DecodeError) as error:
        raise ModelError(
            f"{path}: not a readable ONNX file: {error}", "Export the network again."
        ) from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{path}: not an ONNX network: no nodes or no opset", "Export it again.")
    return model


def require_opset(model: onnx.ModelProto, path: Path) -> int:
    """Version of the standard operators of a network that our passes understand.

    Raises:
        ModelError: older than `OLDEST_OPSET` or newer than the installed onnx knows.
    """
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    newest = onnx.defs.onnx_opset_version()
    if not versions or versions[0] < OLDEST_OPSET:
        found = f"opset {versions[0]}" if versions else "no standard opset"
        raise ModelError(
            f"{path}: {found}, expected {OLDEST_OPSET} to {newest}",
            "Export with opset_version=17, or convert with onnx.version_converter.",
        )
    if versions[0] > newest:
        raise ModelError(
            f"{path}: opset {versions[0]}, expected {OLDEST_OPSET} to {newest}",
            "Export with an older opset_version, or install a newer onnx.",
        )
    return int(versions[0])


def input_specs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """What a network must be fed, in its order; dynamic dimensions are -1."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return tuple(_spec(value) for value in model.graph.input if value.name not in weights)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    return TensorSpec(value.name, shape, dtype)


def bytes_of_weights(model: onnx.ModelProto) -> int:
    """Size of all weights, wherever they lie."""
    return sum(
        place_of(tensor).length if is_reference(tensor) else tensor.ByteSize()
        for tensor in model.graph.initializer
    )


class Spool:
    """A file that takes weights as a pass makes them, so that they need not stay in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self._file = path.open("wb")

    def add(self, name: str, values: NDArray[Any]) -> onnx.TensorProto:
        """Store an array; returns a weight that refers to it (small ones are held in place)."""
        kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor = onnx.TensorProto(name=name, data_type=kind, dims=values.shape)
        raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        if len(raw) <= INLINE_BYTES:
            tensor.raw_data = bytes(raw)
            return tensor
        refer(tensor, str(self._path), self._file.tell(), len(raw))
        self._file.write(raw)
        self._file.flush()
        return tensor

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def write_network(model: onnx.ModelProto, path: Path) -> None:
    """Write a skeleton as a complete network; each weight goes from file to file.

    Weights are embedded up to `EMBED_BYTES` in total, otherwise written to `<name>.data` beside it.
    """
    if bytes_of_weights(model) > EMBED_BYTES:
        beside = copy_weights(model, path.with_name(path.name + ".data"))
        path.write_bytes(beside.SerializeToString())
        return
    with path.open("wb") as out:
        _write_embedded(model, out)


def copy_weights(model: onnx.ModelProto, weights: Path) -> onnx.ModelProto:
    """Copy the referred weights into one file, page-aligned; returns a skeleton that names it.

    The result can be saved any number of times in the folder of `weights` and loaded from there.
    """
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    with weights.open("wb") as out:
        for tensor in moved.graph.initializer:
            if is_reference(tensor):
                place = place_of(tensor)
                out.write(b"\0" * (-out.tell() % _PAGE))
                refer(tensor, weights.name, out.tell(), place.length)
                copy_bytes(place, out)
    return moved


def _parse(data: mmap.mmap, path: Path) -> onnx.ModelProto:
    """Take the message apart: weights one by one, everything else as it is."""
    model_part, graph_part = bytearray(), bytearray()
    weights: list[onnx.TensorProto] = []
    for field in fields(data, 0, len(data)):
        if field.number != _GRAPH or field.wire != LENGTH_DELIMITED:
            model_part += data[field.start : field.end]
            continue
        for inner in fields(data, field.begin, field.end):
            if inner.number == _INITIALIZER:
                weights.append(_weight(data, inner, path))
            else:
                graph_part += data[inner.start : inner.end]
    model = onnx.ModelProto.FromString(bytes(model_part))
    model.graph.CopyFrom(onnx.GraphProto.FromString(bytes(graph_part)))
    model.graph.initializer.extend(weights)
    return model


def _weight(data: mmap.mmap, field: Field, path: Path) -> onnx.TensorProto:
    head, raw = bytearray(), None
    for inner in fields(data, field.begin, field.end):
        if inner.number == _RAW and inner.end - inner.begin > INLINE_BYTES:
            raw = inner
        else:
            head += data[inner.start : inner.end]
    tensor = onnx.TensorProto.FromString(bytes(head))
    if raw is not None:
        refer(tensor, str(path), raw.begin, raw.end - raw.begin)
    elif is_reference(tensor):
        refer_beside(tensor, path)
    return tensor


def _write_embedded(model: onnx.ModelProto, out: BinaryIO) -> None:
    """Compose the message by hand: graph and model first, then one weight after the other."""
    outer, graph = _without(model, "graph"), _without(model.graph, "initializer")
    heads = [_head(tensor) for tensor in model.graph.initializer]
    graph_bytes = graph.SerializeToString()
    size = len(graph_bytes) + sum(
        len(tag(_INITIALIZER, _size(h, p))) + _size(h, p) for h, p in heads
    )
    out.write(outer.SerializeToString())
    out.write(tag(_GRAPH, size))
    out.write(graph_bytes)
    for head, place in heads:
        out.write(tag(_INITIALIZER, _size(head, place)))
        out.write(head)
        if place is not None:
            out.write(tag(_RAW, place.length))
            copy_bytes(place, out)


def _without(message: Any, field: str) -> Any:
    """A copy that leaves out one field, which may be large."""
    copy = type(message)()
    for descriptor, value in message.ListFields():
        if descriptor.name == field:
            continue
        if isinstance(value, (int, float, str, bytes)):
            setattr(copy, descriptor.name, value)
        elif hasattr(value, "CopyFrom"):
            getattr(copy, descriptor.name).CopyFrom(value)
        else:
            getattr(copy, descriptor.name).extend(value)
    return copy


def _head(tensor: onnx.TensorProto) -> tuple[bytes, Place | None]:
    """A weight's message without the bytes it refers to, and where those are."""
    if not is_reference(tensor):
        return tensor.SerializeToString(), None
    place = place_of(tensor)
    head = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return head.SerializeToString(), place


def _size(head: bytes, place: Place | None) -> int:
    return len(head) + (0 if place is None else len(tag(_RAW, place.length)) + place.length)
