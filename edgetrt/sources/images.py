"""Pictures from a folder, a glob or one file, through Pillow.

    ImageSource(pattern, loop=False, rate_hz=None)

| option | meaning |
|---|---|
| `loop` | begin again at the end, for ever |
| `rate_hz` | deliver at this rate, as a camera would: the source is live |

Pictures come in natural order (`frame2` before `frame10`), turned as their EXIF orientation says, and as
8-bit RGB whatever they were: 16-bit grey keeps its upper byte, palettes are looked up, transparent parts
are laid on white. Of files with several pages the first counts.
"""

from __future__ import annotations

import glob
import logging
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image, ImageOps

from edgetrt.errors import SourceError
from edgetrt.ports import EndOfStream
from edgetrt.sources.pace import Pace
from edgetrt.sources.uri import PICTURES, is_glob
from edgetrt.types import Frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


class ImageSource:
    """Every readable picture of a folder, a glob or one file.

    A picture that cannot be read is logged, counted in `unreadable` and skipped. After `close`, `read`
    raises EndOfStream.

    Args:
        pattern: a folder (files with a picture's ending are taken), a glob, or a file.
        loop: begin again at the end.
        rate_hz: deliver at this rate and be live.

    Raises:
        SourceError: no such folder or file, or no picture in it; `read` raises it when none is readable.
    """

    def __init__(
        self, pattern: Path | str, *, loop: bool = False, rate_hz: float | None = None
    ) -> None:
        self._pattern = str(pattern)
        self._paths = find_pictures(Path(pattern))
        self._loop = loop
        self._closed = threading.Event()
        self._rate_hz = rate_hz
        self._pace = Pace(rate_hz, self._closed) if rate_hz else None
        self._at = 0
        self._seq = 0
        self._unreadable: dict[Path, str] = {}

    @property
    def live(self) -> bool:
        """True when it was asked to keep time."""
        return self._pace is not None

    @property
    def reconnects(self) -> int:
        """Always 0: files are not lost."""
        return 0

    @property
    def unreadable(self) -> int:
        """Files that could not be read and were skipped."""
        return len(self._unreadable)

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next picture; None only when keeping time and none is due within `timeout_s`.

        Raises:
            EndOfStream: the last one has been delivered.
            SourceError: not one of them could be read.
        """
        if self._pace is not None and not self._pace.wait(timeout_s):
            if self._closed.is_set():
                raise EndOfStream
            return None
        data = self._next()
        frame = Frame(data, "rgb", self._seq, time.monotonic_ns(), rate_hz=self._rate_hz)
        self._seq += 1
        return frame

    def close(self) -> None:
        """Stop delivering."""
        self._closed.set()

    def _next(self) -> NDArray[np.uint8]:
        while not self._closed.is_set():
            if self._at == len(self._paths):
                self._check_any()
                if not self._loop:
                    raise EndOfStream
                self._at = 0
            path = self._paths[self._at]
            self._at += 1
            try:
                return load_rgb(path)
            except SourceError as error:
                if path not in self._unreadable:
                    log.warning("%s; skipped", error.message)
                self._unreadable[path] = error.message
        raise EndOfStream

    def _check_any(self) -> None:
        if self._seq == 0:
            last = self._unreadable[self._paths[-1]]
            raise SourceError(
                f"{self._pattern}: none of its {len(self._paths)} pictures can be read; last: {last}",
                "Open one with another program; copy it again if that fails too.",
            )


def find_pictures(pattern: Path) -> list[Path]:
    """List the files that a folder, a glob or a file name stands for, in natural order.

    Raises:
        SourceError: nothing is there, or no picture among it.
    """
    try:
        if pattern.is_dir():
            files = [p for p in pattern.iterdir() if p.suffix.lower() in PICTURES]
        elif pattern.exists():
            files = [pattern]
        elif is_glob(str(pattern)):
            files = [Path(name) for name in glob.glob(str(pattern), recursive=True)]  # noqa: PTH207
        else:
            raise SourceError(f"{pattern}: no such file or folder", "Check the path.")
    except (OSError, ValueError) as error:
        raise SourceError(f"{pattern}: cannot be read: {error}", "Check the rights.") from error
    files = sorted((p for p in files if p.is_file()), key=lambda p: natural_key(str(p)))
    if not files:
        raise SourceError(
            f"{pattern}: no picture found",
            f"Expected files ending in {', '.join(sorted(PICTURES))}.",
        )
    return files


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sort key that compares runs of digits by value: `a2` before `a10`."""
    parts = re.split(r"([0-9]+)", text)
    return [(0, int(p), p) if p.isdigit() and p.isascii() else (1, 0, p) for p in parts if p]


def load_rgb(path: Path) -> NDArray[np.uint8]:
    """Read one picture as h×w×3 RGB, turned upright.

    Raises:
        SourceError: not a picture, damaged, cut off, or larger than Pillow's safe number of pixels.
    """
    try:
        with Image.open(path) as image:
            _check_size(path, image)
            deep = image.format == "PNG" or image.mode.startswith("I;16")
            upright = ImageOps.exif_transpose(image) or image
            return np.array(to_rgb(upright, deep=deep), dtype=np.uint8)
    except SourceError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _bomb(path, str(error)) from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read as a picture: {error}") from error
    except Exception as error:
        raise SourceError(f"{path}: damaged picture: {error!r}") from error


def to_rgb(image: Image.Image, *, deep: bool) -> Image.Image:
    """Convert any of Pillow's modes to 8-bit RGB, as a person would see it.

    `deep` says that integers are of 16 bits; older versions of Pillow hold them in 32.
    """
    if image.mode == "F":
        return Image.fromarray(_floats_to_bytes(np.asarray(image))).convert("RGB")
    if image.mode.startswith("I"):
        return Image.fromarray(_integers_to_bytes(np.asarray(image), deep=deep)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        seen = image.convert("RGBA")
        paper = Image.new("RGBA", seen.size, "white")
        return Image.alpha_composite(paper, seen).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _floats_to_bytes(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Take them for 0..1, or for 0..255 when one is larger; what is no number is black."""
    known = np.nan_to_num(values)
    bright = known * (255.0 if known.max(initial=0.0) <= 1.0 else 1.0)
    return cast("NDArray[np.uint8]", np.clip(bright, 0, 255).astype(np.uint8))


def _integers_to_bytes(values: NDArray[np.generic], *, deep: bool) -> NDArray[np.uint8]:
    """Keep the upper byte of 16 bits; 32 bits hold 16, or 8 when none is larger."""
    wide = values.astype(np.int64)
    bright = wide >> 8 if deep or wide.max(initial=0) > 255 else wide
    return cast("NDArray[np.uint8]", np.clip(bright, 0, 255).astype(np.uint8))


def _check_size(path: Path, image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise _bomb(path, f"{image.width}x{image.height} pixels")


def _bomb(path: Path, what: str) -> SourceError:
    return SourceError(
        f"{path}: refused as too large ({what}); a small file may unpack into all of the memory",
        f"At most {Image.MAX_IMAGE_PIXELS} pixels are read; make it smaller.",
    )
