"""Files of a repository over the broker, in chunks: what a device asks for, and what it gets."""

from __future__ import annotations

from typing import Annotated

import msgspec

from edgetrt.wire.messages import Struct

MOST_CHUNK_BYTES = 128 * 1024
"""Of a file in one message: as base64, and with the rest of it, below our brokers' 256 KiB."""

FilePath = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
Offset = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class FetchMessage(Struct, frozen=True, kw_only=True, tag="fetch"):
    """What a device asks whoever serves the repository for; told apart by MQTT's correlation data.

    Attributes:
        path: of a file of the repository's `public` folder, such as `metadata/timestamp.json`.
        offset: of the first byte.
        length: how many bytes at most; fewer come at the end of the file only.
    """

    path: FilePath
    offset: Offset
    length: Annotated[int, msgspec.Meta(ge=1, le=MOST_CHUNK_BYTES)]


class ChunkMessage(Struct, frozen=True, kw_only=True, tag="chunk"):
    """A part of a file, with the correlation data of the request.

    Attributes:
        path, offset: as asked for.
        status: as in HTTP: 200, 404 for what is not there, 416 behind the end of the file, 503 later.
        size: of the whole file in bytes.
        data: its bytes, as base64 in the JSON.
    """

    path: str
    offset: int
    status: int = 200
    size: Offset = 0
    data: bytes = b""
