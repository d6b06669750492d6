"""Annotated pictures: the newest one in a file, or one file per result.

ImageSink(path, every=30)
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from PIL import Image

from edgetrt.errors import SinkError, SourceError
from edgetrt.sinks.draw import annotate

if TYPE_CHECKING:
    from pathlib import Path

    from edgetrt.types import Result

log = logging.getLogger(__name__)


class ImageSink:
    """Writes annotated pictures.

    Args:
        path: a `.jpg` or `.png` file, replaced whole every time; with `{frame}` in its name, one file
            per picture.
        every: of so many results one is drawn, the first included; the last one of all is drawn, too.

    Raises:
        SinkError: another kind of file, or one that cannot be written.
    """

    def __init__(self, path: Path, every: int = 30) -> None:
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            raise SinkError(f"{path}: expected a .jpg or .png file", "Change the file's ending.")
        if every < 1:
            raise SinkError(f"{path}: expected every=1 or more, got {every}")
        check_writable(path)
        self._path, self._every = path, every
        self._count = 0
        self._pending: Result | None = None
        self._told = False
        self.lost = 0

    def put(self, result: Result) -> bool:
        """Draw it when its turn has come; False when it could not be written."""
        due = self._count % self._every == 0
        self._count += 1
        self._pending = None if due else result
        return self._write(result) if due else True

    def close(self) -> None:
        """Draw the last result."""
        if self._pending is not None:
            self._write(self._pending)
            self._pending = None

    def _write(self, result: Result) -> bool:
        path = self._path.with_name(self._path.name.replace("{frame}", f"{result.frame.seq:06}"))
        fresh = path.with_name(f".{path.stem}.new{path.suffix}")
        try:
            Image.fromarray(annotate(result)).save(fresh, quality=90)
            fresh.replace(path)
        except (OSError, ValueError, SourceError) as error:
            if not self._told:
                log.warning("%s: pictures are not written: %s", path, error)
            self._told = True
            self.lost += 1
            return False
        self._told = False
        return True


def check_writable(path: Path) -> None:
    """Make the file's folder, and see that a file can be written there; leaves none behind.

    Raises:
        SinkError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise SinkError(f"{path}: is a folder, expected a file", "Write a file name.")
        trial = path.with_name(f".{path.stem}.new{path.suffix}")
        trial.open("wb").close()
        trial.unlink()
    except FileExistsError as error:
        raise SinkError(
            f"{path}: cannot be written: {error.filename} is no folder", "Name another path."
        ) from error
    except (OSError, ValueError) as error:
        raise SinkError(
            f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}",
            "Check the folder and its rights.",
        ) from error
