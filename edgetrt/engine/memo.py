"""Orders that were carried out before, by their words: a repetition needs neither network nor backend.

The fingerprint of an engine takes reading the network and finding its toolchain, which cost a second of
imports. The same words about the same files on the same libraries led to an engine already; its name is
remembered in `<cache>/.orders`. A lost or damaged note costs that second and nothing else, and the engine
itself is verified either way.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgetrt import __version__
from edgetrt.engine.report import Report
from edgetrt.errors import EngineMismatchError

if TYPE_CHECKING:
    from edgetrt.engine.cache import Cache

PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "onnx",
    "numpy",
)
"""What makes and runs engines; another version of one makes another order of the same words."""

_CHUNK = 1 << 20
_FOLDER, _KEPT = ".orders", 256


class Note(msgspec.Struct, frozen=True):
    """The engine that an order led to, and the files beside the network with their digests."""

    engine: str
    beside: dict[str, str] = {}


def words_of(model: Path, parts: Any) -> str:
    """Name an order: the network's file, what was asked, and the libraries that are here.

    Args:
        model: the network's file.
        parts: everything else that the engine depends on, as JSON can hold it.

    Raises:
        OSError: the file cannot be read.
    """
    here = {name: _version(name) for name in PACKAGES}
    words = msgspec.json.encode([__version__, here, _digest(model), parts], order="sorted")
    return hashlib.sha256(words).hexdigest()


def recall(cache: Cache, words: str, model: Path) -> tuple[Report | None, str]:
    """What `find` says of the engine that the order led to; None where that is not known.

    An engine of TensorRT counts only when its version can be told from the installed package.
    """
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        note = msgspec.json.decode((cache.root / _FOLDER / words).read_bytes(), type=Note)
        if any(_digest(model.with_name(name)) != known for name, known in note.beside.items()):
            return None, ""
        report, spoilt = find(cache, note.engine)
        if report is None or report.toolchain.partition(" ")[2] in map(_version, PACKAGES):
            return report, spoilt
    return None, ""


def remember(cache: Cache, words: str, engine: str, beside: Iterable[Path]) -> None:
    """Note where the order led; where that cannot be written, the next one takes a second longer."""
    with contextlib.suppress(OSError):
        note = Note(engine, {path.name: _digest(path) for path in beside})
        folder = cache.root / _FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        known = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in known[: max(0, len(known) - _KEPT)]:
            path.unlink()
        fresh = folder / f".{os.getpid()}.new"
        fresh.write_bytes(msgspec.json.encode(note))
        fresh.replace(folder / words)


def find(cache: Cache, engine: str) -> tuple[Report | None, str]:
    """The report of an engine whose every byte verifies, or what is wrong with the one that is there."""
    if not (cache.root / engine).exists():
        return None, ""
    try:
        told = cache.open(engine).manifest.info.get("report")
        return msgspec.convert(told, Report), ""
    except EngineMismatchError as error:
        return None, f"{error.message}; it was made again"
    except msgspec.ValidationError:
        return (
            None,
            "",
        )  # stored by another version, or by another command: nothing is wrong with it


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _digest(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()
