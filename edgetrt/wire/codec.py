"""Messages to bytes and back; whatever arrives, only `MessageError` leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from edgetrt.errors import MessageError
from edgetrt.wire.chunks import ChunkMessage, FetchMessage
from edgetrt.wire.local import (
    GrantMessage,
    LinkMessage,
)
from edgetrt.wire.messages import (
    VERSION,
    EventMessage,
    FrameResult,
    HealthMessage,
    PipelineReport,
    ReportedMessage,
    ResultMessage,
    StatusMessage,
    Struct,
)
from edgetrt.wire.requests import (
    AnnounceMessage,
    CommandMessage,
    DesiredMessage,
    ReplyMessage,
)
from edgetrt.wire.topics import TOPICS

T = TypeVar("T", bound=Struct)


class _Head(msgspec.Struct):
    """What is read before anything else is believed."""

    v: int | None = None
    kind: str | None = None


_HEAD = msgspec.json.Decoder(_Head)
_ENCODER = msgspec.json.Encoder()
_DECODERS: dict[object, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind)
    for kind in (
        FrameResult,
        ResultMessage,
        PipelineReport,
        GrantMessage,
        HealthMessage,
        EventMessage,
        ReportedMessage,
        StatusMessage,
        ReplyMessage,
        DesiredMessage,
        CommandMessage,
        AnnounceMessage,
        FetchMessage,
        ChunkMessage,
    )
}
_LINK = msgspec.json.Decoder(LinkMessage)


def encode(message: Struct) -> bytes:
    """JSON of a message."""
    return _ENCODER.encode(message)


_NOW, _THEN = b'"historical":false}', b'"historical":true}'


def as_historical(payload: bytes) -> bytes:
    """Mark an encoded result, event or health message as one that waited."""
    return payload[: -len(_NOW)] + _THEN if payload.endswith(_NOW) else payload


def decode(kind: type[T], payload: bytes) -> T:
    """Read a message of a known kind.

    Raises:
        MessageError: not JSON, another version, another kind, or a field that is missing or wrong.
    """
    message: T = _read(_DECODERS[kind].decode, payload, kind.__name__)
    return message


def decode_link(payload: bytes) -> LinkMessage:
    """Read a datagram of the local link; raises MessageError as `decode` does."""
    message: LinkMessage = _read(_LINK.decode, payload, "link message")
    return message


def _read(read: Callable[[bytes], Any], payload: bytes, what: str) -> Any:
    try:
        head = _HEAD.decode(payload)
        if head.v == VERSION and head.kind is not None:
            return read(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"{what} of {len(payload)} bytes: {error}") from error
    if head.v != VERSION:
        raise MessageError(
            f"{what}: version {head.v}, expected {VERSION}",
            "The two ends run different versions of edgetrt; update the older one.",
        )
    raise MessageError(f"{what}: `kind` is missing")


def schema() -> dict[str, Any]:
    """JSON Schema of every message, by topic name; changes only with additions within a version."""
    kinds = [row.kind for row in TOPICS]
    tops, components = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "version": VERSION,
        "topics": {row.name: top for row, top in zip(TOPICS, tops, strict=True)},
        "$defs": components,
    }
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document))
    return plain
