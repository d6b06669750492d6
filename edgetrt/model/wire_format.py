"""The protobuf wire format, as far as ONNX files need it: step over fields, write headers.

Rules: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

LENGTH_DELIMITED = 2


class Bytes(Protocol):
    """What is read: bytes, or a memory map of a file."""

    def __getitem__(self, index: int, /) -> int:
        """One byte."""


@dataclass(frozen=True, slots=True)
class Field:
    """One tagged field of a message: where it starts, and where its payload lies."""

    number: int
    wire: int
    start: int
    begin: int
    end: int


def fields(data: Bytes, at: int, end: int) -> Iterator[Field]:
    """Step over the fields of the message that lies in `data[at:end]`.

    Raises:
        ValueError: a field runs past the end, or is of no known kind.
    """
    while at < end:
        start = at
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        begin = at
        if wire == 0:
            _, at = _varint(data, at, end)
        elif wire == 1:
            at += 8
        elif wire == LENGTH_DELIMITED:
            length, begin = _varint(data, at, end)
            at = begin + length
        elif wire == 5:
            at += 4
        else:
            raise ValueError(f"wire type {wire} at byte {start}")
        if at > end:
            raise ValueError(f"cut short: a field at byte {start} needs {at - end} bytes more")
        yield Field(number, wire, start, begin, at)


def _varint(data: Bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"cut short or damaged at byte {at}")


def encode(value: int) -> bytes:
    """A number as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, length: int) -> bytes:
    """What stands before `length` bytes of field `number`."""
    return encode(number << 3 | LENGTH_DELIMITED) + encode(length)
