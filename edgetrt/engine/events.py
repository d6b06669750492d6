"""What a build process tells its parent: one JSON object a line."""

from __future__ import annotations

import msgspec

from edgetrt.types import BuiltLayer


class Event(msgspec.Struct, frozen=True, tag_field="event"):
    """One line."""


class Progress(Event, frozen=True, tag="progress"):
    """How far it is.

    Attributes:
        phase: in the builder's words.
        fraction: of the whole, 0..1; None when the builder does not count.
    """

    phase: str
    fraction: float | None = None


class LogLine(Event, frozen=True, tag="log"):
    """A line of the builder's log; severity is `error`, `warning`, `info` or `verbose`."""

    severity: str
    text: str


class Built(Event, frozen=True, tag="built"):
    """The plan is written.

    Attributes:
        toolchain: library and version that wrote it.
        size: of the plan in bytes.
        seconds: that the build took.
        layers: of the finished engine, where the builder or its log tells them.
        source: where `layers` come from: `inspector`, `log`, `network` (what the builder meant to do
            before it began) or `none`.
        reasons: why a layer is not on the DLA, by layer name.
        warnings: what a person should know.
    """

    toolchain: str
    size: int
    seconds: float
    layers: tuple[BuiltLayer, ...] = ()
    source: str = "none"
    reasons: dict[str, str] = {}
    warnings: tuple[str, ...] = ()


class Failed(Event, frozen=True, tag="failed"):
    """It did not work out; `kind` is the name of an error class of `edgetrt.errors`."""

    kind: str
    message: str
    hint: str = ""


AnyEvent = Progress | LogLine | Built | Failed
_DECODER: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def to_line(event: AnyEvent) -> bytes:
    """One line of JSON with its line feed."""
    return msgspec.json.encode(event) + b"\n"


def from_line(line: bytes) -> AnyEvent | None:
    """Read a line; None when it is not one of ours (a library wrote to the same pipe, or it is cut)."""
    try:
        return _DECODER.decode(line)
    except msgspec.DecodeError:
        return None
