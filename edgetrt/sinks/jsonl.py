"""Results as JSON lines: one object per result, in a file or on standard output."""

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
        self._told = False
        self._name = "standard output" if path is None else str(path)
        if path is None:
            self._file: BinaryIO = sys.stdout.buffer
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise SinkError(
                f"{path}: cannot be written: {error.strerror}", "Check the folder and its rights."
            ) from error

    def put(self, result: Result) -> bool:
        """Write a line; False when it could not be written."""
        try:
            self._file.write(self._encode(result) + b"\n")
            self._file.flush()
        except (OSError, ValueError) as error:  # ValueError: it is closed
            if not self._told:
                log.warning("%s: results are not written: %s", self._name, error)
            self._told = True
            return False
        self._told = False
        return True

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if self._file is not sys.stdout.buffer:
            self._file.close()
