"""Who asked for what, when, and what came of it: a line each, in a file of bounded size and the journal."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from edgetrt.journal import fields

_log = logging.getLogger("edgetrt.audit")

MOST_BYTES = 1_000_000
"""Of the file; the one before it is kept, so that twice as much is there at most."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was asked.

    Attributes:
        time: seconds since 1970, by the clock of that moment; `mono_ns` by that of `boot`.
        id: of the command.
        command: its name.
        arguments: as they came.
        by: who asked, in their own words: MQTT does not tell.
        reply_to: topic that the answer goes to.
        outcome: `begun`, `ok`, or the code of a refusal.
        text: the same for people.
        elapsed_s: since the command came.
    """

    time: float
    mono_ns: int
    boot: str
    id: str
    command: str
    arguments: dict[str, object]
    by: str
    reply_to: str
    outcome: str
    text: str = ""
    elapsed_s: float = 0.0


class Audit:
    """The file, and the journal.

    Args:
        folder: of the file; None = the journal alone.
        most_bytes: of one file.

    Attributes:
        lost: lines that the disk did not take.
    """

    def __init__(self, folder: Path | None, most_bytes: int = MOST_BYTES) -> None:
        self.lost = 0
        self._path = None if folder is None else folder / "commands.jsonl"
        self._most_bytes = most_bytes
        _log.setLevel(logging.INFO)  # said however quiet the rest is

    def write(self, line: Line) -> None:
        """Write a line; a disk that does not take it stops nothing."""
        told = f": {line.text}" if line.text else ""
        extra = fields(event="command")
        _log.info("command %s %s: %s%s", line.command, line.id, line.outcome, told, extra=extra)
        if self._path is None:
            return
        try:
            self._append(self._path, msgspec.json.encode(line) + b"\n")
        except OSError as error:
            self.lost += 1
            if self.lost == 1:
                _log.warning("audit %s: cannot be written: %s", self._path, error)

    def _append(self, path: Path, line: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        if path.exists() and path.stat().st_size + len(line) > self._most_bytes:
            path.replace(path.with_suffix(".jsonl.1"))
        with path.open("ab") as file:
            file.write(line)
