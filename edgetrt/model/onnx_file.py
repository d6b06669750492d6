"""Reading an ONNX file, and saying what is wrong with one that is none.

`skim` walks the protobuf frames and leaves weights and nodes on the disk: what a pipeline needs to
start costs the same for a 3 MB and a 3 GB file. `load` parses all of it but leaves external data
where it is.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgetrt.errors import ModelError
from edgetrt.model.wire_format import LENGTH_DELIMITED, Field, fields, tag

if TYPE_CHECKING:
    import onnx

# Field numbers of onnx.proto, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_MODEL_GRAPH = 7
_MODEL_FUNCTIONS = 25
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_GRAPH_BULKY = (_GRAPH_NODE, _GRAPH_INITIALIZER, 13, 14, 15)  # value_info, quantization, sparse
_TENSOR_NAME = 8

_CHUNK_BYTES = 1 << 20

_EXPORT_HINT = "Export the network to ONNX first, for example with torch.onnx.export."
_BUILD_HINT = (
    "Give the ONNX file it was built from; engines are built on the device that runs them."
)
_FETCH_HINT = "Download the file itself again and compare its size with the publisher's."


@dataclass(frozen=True, slots=True)
class Skim:
    """The light parts of a model: everything but nodes, weights and functions.

    Attributes:
        proto: a ModelProto whose graph has inputs and outputs only.
        initializers: names of the weights that were left on the disk.
    """

    proto: onnx.ModelProto
    initializers: frozenset[str]


def skim(path: Path) -> Skim:
    """Read inputs, outputs and metadata without reading weights.

    Raises:
        ModelError: missing, empty, truncated, or not an ONNX file.
    """
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise ModelError(f"{path}: is empty, expected an ONNX network", _FETCH_HINT)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                light, names = _light_parts(data)
    except ValueError as error:  # the protobuf frames do not fit together
        raise _unreadable(path, str(error)) from error
    except OSError as error:
        raise _unopenable(path, error) from error
    return Skim(_parse(path, light), frozenset(names))


def load(path: Path, *, external: bool = False) -> onnx.ModelProto:
    """Parse the whole file, with the model's own functions written out.

    External data stays on the disk unless it is asked for.

    Raises:
        ModelError: missing, empty, truncated, or not an ONNX file; with `external` also when a file
            of weights is missing, too short, or lies outside the model's folder.
    """
    skim(path)
    model = _parse(path, path.read_bytes())
    if model.functions:
        model = _inlined(path, model)
    if external and external_files(model, path):
        import onnx

        onnx.load_external_data_for_model(model, str(path.resolve().parent))
    return model


def _inlined(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its own functions written out, as TensorRT's parser does."""
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        hint = "Export it again without local functions."
        raise ModelError(f"{path}: its functions cannot be written out: {error}", hint) from error


def external_files(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    """Files beside `path` that hold weights of `model`, each once, in the order of first use.

    Raises:
        ModelError: a file is missing, too short, or lies outside the model's folder.
    """
    ends: dict[str, int] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == tensor.EXTERNAL:
            entry = {item.key: item.value for item in tensor.external_data}
            end = _integer(entry.get("offset")) + _integer(entry.get("length"))
            location = entry.get("location", "")
            ends[location] = max(ends.get(location, 0), end)
    return tuple(_external_file(path, location, end) for location, end in ends.items())


def digest(path: Path, extra: tuple[Path, ...] = ()) -> str:
    """Sha256 over the file and then its external data files, as lower-case hex.

    Raises:
        ModelError: a file cannot be read.
    """
    state = hashlib.sha256()
    for part in (path, *extra):
        try:
            with part.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    state.update(chunk)
        except OSError as error:
            raise _unopenable(part, error) from error
    return state.hexdigest()


def _light_parts(data: mmap.mmap) -> tuple[bytes, list[str]]:
    """Bytes of the model without bulky fields, and the names of its weights."""
    kept = bytearray()
    names: list[str] = []
    for field in fields(data, 0, len(data)):
        if field.number == _MODEL_GRAPH and field.wire == LENGTH_DELIMITED:
            graph = bytearray()
            for part in fields(data, field.begin, field.end):
                if part.number == _GRAPH_INITIALIZER:
                    names += _tensor_names(data, part)
                elif part.number not in _GRAPH_BULKY:
                    graph += data[part.start : part.end]
            kept += tag(_MODEL_GRAPH, len(graph)) + graph
        elif field.number != _MODEL_FUNCTIONS:
            kept += data[field.start : field.end]
    return bytes(kept), names


def _tensor_names(data: mmap.mmap, tensor: Field) -> list[str]:
    return [
        data[field.begin : field.end].decode("utf-8", "replace")
        for field in fields(data, tensor.begin, tensor.end)
        if field.number == _TENSOR_NAME and field.wire == LENGTH_DELIMITED
    ]


def _parse(path: Path, data: bytes) -> onnx.ModelProto:
    import onnx  # lazy: it costs a quarter of a second, and `--help` must not pay it
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise _unreadable(path, str(error)) from error
    if not model.ir_version or not model.HasField("graph") or not model.graph.output:
        raise _unreadable(path, "no ONNX graph with outputs inside")
    return model


def _unopenable(path: Path, error: OSError) -> ModelError:
    if isinstance(error, FileNotFoundError):
        return ModelError(f"{path}: no such file", "Check the path; expected an .onnx file.")
    if isinstance(error, IsADirectoryError):
        return ModelError(
            f"{path}: is a folder, expected an ONNX file", "Name the .onnx file in it."
        )
    return ModelError(f"{path}: cannot be read: {error.strerror}", "Check the file's permissions.")


def _unreadable(path: Path, detail: str) -> ModelError:
    """Name the kind of file by its first bytes, so that the way out is clear."""
    with path.open("rb") as file:
        head = file.read(512)
    for signature, offset, what, hint in _KINDS:
        if head[offset : offset + len(signature)].lower() == signature.lower():
            return ModelError(f"{path}: expected an ONNX network, this looks like {what}", hint)
    if head.startswith(b"PK\x03\x04"):
        what = "a PyTorch checkpoint" if _holds_pickle(path) else "a zip archive"
        return ModelError(f"{path}: expected an ONNX network, this looks like {what}", _EXPORT_HINT)
    if head[4:5] == b"{" and b"ftrt" not in head[:4]:
        what = "an engine file with a JSON header, as Ultralytics writes it"
        return ModelError(f"{path}: expected an ONNX network, this looks like {what}", _BUILD_HINT)
    return ModelError(f"{path}: not a readable ONNX network: {detail}", _FETCH_HINT)


def _holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


_KINDS = (
    (b"ftrt", 0, "a TensorRT plan", _BUILD_HINT),
    (b"vtrt", 0, "a TensorRT-RTX plan", _BUILD_HINT),
    (
        b"version https://git-lfs",
        0,
        "a git-lfs pointer, not the file itself",
        "Run `git lfs pull`.",
    ),
    (b"<!doctype html", 0, "a web page", _FETCH_HINT),
    (b"<html", 0, "a web page", _FETCH_HINT),
    (b"<?xml", 0, "XML, perhaps OpenVINO's", _EXPORT_HINT),
    (b"TFL3", 4, "a TensorFlow Lite model", "Convert it to ONNX first, for example with tf2onnx."),
    (b"\x89HDF", 0, "a Keras HDF5 file", "Convert it to ONNX first, for example with tf2onnx."),
    (b"\x80\x02", 0, "a Python pickle, perhaps an old PyTorch checkpoint", _EXPORT_HINT),
    (b"GGUF", 0, "a GGUF language model", _EXPORT_HINT),
    (b'{"', 8, "a safetensors file", _EXPORT_HINT),
    (b"{", 0, "JSON, perhaps a server's error message", _FETCH_HINT),
    (b"\x1f\x8b", 0, "a gzip file", "Unpack it first."),
    (b"\x7fELF", 0, "a program", _FETCH_HINT),
)


def _integer(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and len(text) < 20 else 0


def _external_file(path: Path, location: str, end: int) -> Path:
    """Check one external data file of the model at `path`."""
    folder = path.resolve().parent
    file = (folder / location).resolve()
    if not location or folder not in file.parents:
        raise ModelError(
            f"{path}: its weights name the file {location!r} outside the model's folder",
            "Only files beside the model are read; export it again with a plain file name.",
        )
    if not file.is_file():
        raise ModelError(
            f"{path}: its weights are in {location!r}, which is missing; expected at {file}",
            "Copy that file beside the model; both belong together.",
        )
    if file.stat().st_size < end:
        raise ModelError(
            f"{file}: cut off: the weights of {path.name} reach to byte {end}, the file has "
            f"{file.stat().st_size}",
            _FETCH_HINT,
        )
    return file
