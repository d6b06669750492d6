"""The first 28 bytes of a plan file: whose it is, before TensorRT is handed a byte.

Layout: a tag of four bytes, a serialization version (little-endian u32), and at offsets 24 to 27 the
version of TensorRT that wrote it, one byte each (from TensorRT 8.6 on). Ultralytics writes a
little-endian length and that many bytes of JSON in front. Source: `printPlanVersion` in
https://github.com/NVIDIA/TensorRT/blob/v10.3.0/samples/common/sampleEngines.cpp
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Literal

from edgetrt.errors import EngineMismatchError

HEADER_SIZE = 28
MAX_PREFIX = 1 << 20
Flavour = Literal["tensorrt", "tensorrt_rtx"]
_TAGS: dict[bytes, Flavour] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt_rtx"}
_PRODUCT: dict[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


@dataclass(frozen=True)
class PlanHeader:
    """What a plan says about itself.

    Attributes:
        flavour: which library wrote it.
        serialization: version of the container.
        version: major, minor, patch, build; None where the writer left it out (before 8.6).
        offset: where the plan begins in the file, behind Ultralytics' prefix if there is one.
        prefix: that prefix.
    """

    flavour: Flavour
    serialization: int
    version: tuple[int, int, int, int] | None
    offset: int = 0
    prefix: dict[str, object] | None = None

    def __str__(self) -> str:
        version = ".".join(map(str, self.version)) if self.version else "before 8.6"
        return f"{_PRODUCT[self.flavour]} {version}"


def read_header(data: bytes, name: str = "plan") -> PlanHeader:
    """Parse the head of a plan; `data` may be the head or the whole file.

    Raises:
        EngineMismatchError: it is no plan, or cut off inside its header.
    """
    offset, prefix = _ultralytics(data)
    head = data[offset : offset + HEADER_SIZE]
    if len(head) < HEADER_SIZE:
        raise EngineMismatchError(
            f"{name}: {len(head)} bytes where a plan has a header of {HEADER_SIZE}: cut off",
            "Build the engine again; the file was not written whole.",
        )
    flavour = _TAGS.get(head[:4])
    if flavour is None:
        raise EngineMismatchError(
            f"{name}: begins with {head[:4]!r}, expected {b'ftrt'!r} (TensorRT) or"
            f" {b'vtrt'!r} (TensorRT-RTX)",
            _what_else(head),
        )
    major, minor, patch, build = head[24:28]
    version = (major, minor, patch, build) if any(head[24:28]) else None
    return PlanHeader(flavour, struct.unpack_from("<I", head, 4)[0], version, offset, prefix)


def check_header(
    header: PlanHeader, flavour: Flavour, version: tuple[int, ...], name: str = "plan"
) -> None:
    """Refuse a plan of another library or version.

    Args:
        header: of the plan.
        flavour: library that is to load it.
        version: of that library, as many parts as are known (three or four).
        name: of the file, for the message.

    Raises:
        EngineMismatchError: with both versions and what to do.
    """
    expected = f"{_PRODUCT[flavour]} {'.'.join(map(str, version))}"
    hint = "Deploy the ONNX file again on this device: plans fit only the version that wrote them."
    if header.flavour != flavour:
        raise EngineMismatchError(f"{name}: plan of {header}, this device has {expected}", hint)
    if header.prefix is not None:
        raise EngineMismatchError(
            f"{name}: a plan of {header} behind {header.offset} bytes of Ultralytics metadata",
            "Export the network to ONNX and deploy that; an engine from elsewhere is native code.",
        )
    if header.version is None:
        if version[:2] >= (8, 6):
            raise EngineMismatchError(f"{name}: plan of {header}, this device has {expected}", hint)
        return
    if header.version[: len(version)] != tuple(version[:4]):
        raise EngineMismatchError(f"{name}: plan of {header}, this device has {expected}", hint)


def _ultralytics(data: bytes) -> tuple[int, dict[str, object] | None]:
    """Offset behind a length-prefixed JSON object at the front; (0, None) when there is none."""
    if len(data) < 8 or data[:4] in _TAGS:
        return 0, None
    length = struct.unpack_from("<I", data)[0]
    if not 2 <= length <= min(MAX_PREFIX, len(data) - 4):
        return 0, None
    try:
        found = json.loads(data[4 : 4 + length].decode("utf-8"))
    except (ValueError, RecursionError):
        return 0, None
    return (4 + length, found) if isinstance(found, dict) else (0, None)


def _what_else(head: bytes) -> str:
    """What people pass by mistake."""
    if head.startswith(b"PK"):
        return "This is a zip file (a PyTorch checkpoint?): export it to ONNX first."
    if head[:1] == b"\x08":
        return "This looks like an ONNX file: give it to `edgetrt deploy`, which builds the plan."
    return "Deploy the ONNX file; the plan is built on the device."
