"""Results as JSON lines: one object per result, in a file or on standard output.

    JsonlSink(path, encode)

A file is appended to and never shortened, so that a restart loses nothing. Standard output may wait for
whoever reads it, as every program's does.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, BinaryIO

from edgetrt.errors import SinkError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgetrt.types import Result

log = logging.getLogger(__name__)


class JsonlSink:
    """Appends a line per result, written through at once, so that `tail -f` follows.

    Args:
        path: the file, made with its folder when missing; None = standard output.
        encode: gives a result's JSON object, without a line feed.

    Raises:
        SinkError: the file cannot be opened.
    """

    def __init__(self, path: Path | None, encode: Callable[[Result], bytes]) -> None:
        self._encode = encode
        self.lost = 0
        self._told = False
        self._torn = False
        self._owned = path is not None
        self._name = "standard output" if path is None else str(path)
        if path is None:
            self._file: BinaryIO = sys.stdout.buffer
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except FileExistsError as error:
            raise SinkError(
                f"{path}: cannot be written: {error.filename} is no folder", "Name another path."
            ) from error
        except (OSError, ValueError) as error:
            raise SinkError(
                f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}",
                "Check the folder and its rights.",
            ) from error

    def put(self, result: Result) -> bool:
        """Write a line; False when it could not be written whole."""
        line = (b"\n" if self._torn else b"") + self._encode(result) + b"\n"
        try:
            self._write(line)
            self._file.flush()
        except (OSError, ValueError) as error:  # ValueError: it is closed
            if not self._told:
                log.warning("%s: results are not written: %s", self._name, error)
            self._told = True
            self.lost += 1
            return False
        self._told = False
        return True

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if self._owned:
            self._file.close()

    def _write(self, line: bytes) -> None:
        """Write all of it; a part that stays behind on a full disk is ended before the next line."""
        while line:
            written = self._file.write(line)
            line = line[written:]
            self._torn = bool(line)
