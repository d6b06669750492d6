"""A repository behind the broker as an origin: files in chunks, for sites whose devices have no HTTP.

A few chunks are on their way at a time, each asked for by itself, so that neither the broker nor this
process ever holds more than those. What comes is believed as little as what a web server sends.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from edgetrt import wire
from edgetrt.errors import MessageError, TrustError, UnreachableError
from edgetrt.update.line import Call, Line
from edgetrt.update.origin import Limits, Reply, StallGuard

CHUNK_BYTES = 64 * 1024
WINDOW = 8
"""Chunks on their way at a time."""

_LOOK = "Look at the broker and at `edgetrt release serve`; it is tried again."


@dataclass(frozen=True)
class _Asked:
    """A part of the file that is on its way."""

    offset: int
    length: int


class ChunkOrigin:
    """Files below one folder of a repository, over the agent's own connection to the broker.

    Args:
        line: to whoever serves them.
        folder: `metadata` or `targets`.
        limits: how long that may take.
        chunk_bytes: how much is asked for at a time.
    """

    def __init__(
        self,
        line: Line,
        folder: str,
        limits: Limits | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._line, self._folder = line, folder
        self._limits, self._chunk_bytes = limits or Limits(), chunk_bytes

    @property
    def name(self) -> str:
        """For messages."""
        return f"mqtt:{self._folder}/"

    @contextlib.contextmanager
    def get(self, path: str, offset: int = 0) -> Iterator[Reply]:
        """As `Origin.get`."""
        with self._line.call() as call:
            file = _File(call, f"{self._folder}/{path}", self._limits, self._chunk_bytes)
            first = file.first(offset)
            if first.status != 200:
                yield Reply(first.status, 0, 0, iter(()))
                return
            status = 206 if offset else 200
            yield Reply(status, offset, first.size - offset, file.chunks(first))


class _File:
    """One file, as it comes."""

    def __init__(self, call: Call, path: str, limits: Limits, chunk_bytes: int) -> None:
        self._call, self._path, self._limits = call, path, limits
        self._chunk_bytes = chunk_bytes
        self._where = f"mqtt:{path}"
        self._asked: dict[bytes, _Asked] = {}

    def first(self, offset: int) -> wire.ChunkMessage:
        """The chunk that tells how large the file is.

        Raises:
            UnreachableError: no answer.
            TrustError: an answer to something else.
        """
        self._ask(offset, self._chunk_bytes)
        found = self._next(self._limits.answer_s, "unreachable")
        if found.status == 200 and not offset <= found.size:
            raise _stray(self._where, f"{found.size} bytes in all, asked for those from {offset}")
        return found

    def chunks(self, first: wire.ChunkMessage) -> Iterator[bytes]:
        """Its bytes in order, from the first chunk on; raises as `first` does."""
        pace, size = StallGuard(self._limits, self._where), first.size
        at = asked = first.offset
        early = {at: first.data}
        asked += len(first.data)
        while True:
            while (data := early.pop(at, None)) is not None and at < size:
                pace.took(len(data))
                yield data
                at += len(data)
            if at >= size:
                return
            while asked < size and len(self._asked) + len(early) < WINDOW:
                asked += self._ask(asked, min(self._chunk_bytes, size - asked))
            found = self._next(self._limits.gap_s, "slow")
            if (found.status, found.size) != (200, size):
                raise UnreachableError(f"{self._where}: changed while it was read", _LOOK, "lost")
            early[found.offset] = found.data

    def _ask(self, offset: int, length: int) -> int:
        request = wire.FetchMessage(path=self._path, offset=offset, length=length)
        self._asked[self._call.ask(wire.encode(request))] = _Asked(offset, length)
        return length

    def _next(self, within_s: float, code: str) -> wire.ChunkMessage:
        """The next answer, whichever it is, when it is one to what was asked."""
        begun = time.monotonic()
        answer = self._call.answer(within_s)
        if answer is None:
            told = f"nothing for {time.monotonic() - begun:.0f} s"
            raise UnreachableError(f"{self._where}: {told}", _LOOK, code)
        asked = self._asked.pop(answer[0])
        try:
            found = wire.decode(wire.ChunkMessage, answer[1])
        except MessageError as error:
            raise _stray(self._where, error.message) from error
        if (found.path, found.offset) != (self._path, asked.offset):
            raise _stray(self._where, f"got {found.path[:200]!r} from {found.offset}")
        expected = min(asked.length, max(0, found.size - asked.offset))
        if found.status == 200 and len(found.data) != expected:
            raise _stray(self._where, f"{len(found.data)} bytes in a chunk, expected {expected}")
        return found


def _stray(where: str, what: str) -> TrustError:
    return TrustError(
        f"{where}: {what}", "Look at the broker, and at who may write to this device.", "range"
    )
