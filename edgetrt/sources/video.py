"""Video files, anywhere PyAV runs.

    VideoFileSource(path, loop=False, realtime=False, rate_hz=None)

| option | meaning |
|---|---|
| `loop` | begin again at the end, for ever |
| `realtime` | deliver at the file's own frame rate, as a camera would: the source is live |
| `rate_hz` | the same at this rate |
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edgetrt.errors import SourceError
from edgetrt.ports import EndOfStream
from edgetrt.sources.decode import Decoder
from edgetrt.sources.pace import Pace
from edgetrt.types import Frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray


log = logging.getLogger(__name__)


class VideoFileSource:
    """Every frame of a video file, in order, of whatever size each has.

    Damaged packets are skipped and counted in `corrupt`. After `close`, `read` raises EndOfStream.

    Args:
        path: the file.
        loop: begin again at the end.
        realtime: deliver at the file's own rate and be live.
        rate_hz: deliver at this rate and be live.

    Raises:
        SourceError: no such file, not a video, cut off before its index, or without a video stream.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        loop: bool = False,
        realtime: bool = False,
        rate_hz: float | None = None,
    ) -> None:
        self._path = Path(path)
        self._loop = loop
        self._closed = threading.Event()
        self._reading = threading.Lock()
        self._corrupt = 0
        self._seq = 0
        self._begin()
        self._file_hz = self._decoder.rate_hz
        pace_hz = rate_hz or ((self._file_hz or 30.0) if realtime else None)
        self._frame_hz = pace_hz or self._file_hz
        self._pace = Pace(pace_hz, self._closed) if pace_hz else None

    @property
    def live(self) -> bool:
        """True when it was asked to keep time."""
        return self._pace is not None

    @property
    def reconnects(self) -> int:
        """Always 0: a file is not lost."""
        return 0

    @property
    def corrupt(self) -> int:
        """Packets and pictures that were damaged and skipped."""
        return self._corrupt + self._decoder.corrupt

    @property
    def rate_hz(self) -> float | None:
        """Frames per second as the file says, for whoever plays or records its frames."""
        return self._file_hz

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next frame; None only when keeping time and none is due within `timeout_s`."""
        if self._pace is not None and not self._pace.wait(timeout_s):
            if self._closed.is_set():
                raise EndOfStream
            return None
        with self._reading:
            if self._closed.is_set():
                raise EndOfStream
            data = self._next()
        frame = Frame(data, "rgb", self._seq, time.monotonic_ns(), rate_hz=self._frame_hz)
        self._seq += 1
        return frame

    def close(self) -> None:
        """Release the file; waits for a read that is under way."""
        with self._reading:
            if not self._closed.is_set() and self.corrupt:
                log.warning("%s: %d damaged packets were skipped", self._path, self.corrupt)
            self._closed.set()
            self._decoder.close()

    def _next(self) -> NDArray[np.uint8]:
        data = next(self._frames, None)
        if data is not None:
            return data
        if self._decoder.decoded == 0:
            raise SourceError(
                f"{self._path}: no frame could be decoded ({self.corrupt} damaged packets)",
                "Play it with another program; copy or record it again if that fails too.",
            )
        if not self._loop:
            raise EndOfStream
        self._corrupt += self._decoder.corrupt
        self._decoder.close()
        self._begin()
        return self._next()

    def _begin(self) -> None:
        self._decoder = open_file(self._path)
        self._frames: Iterator[NDArray[np.uint8]] = self._decoder.frames()


def open_file(path: Path) -> Decoder:
    """Open a video file.

    Raises:
        SourceError: says whether it is missing, a folder, empty, unreadable or no video.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file", "Check the path.") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read: {error}", "Check the path.") from error
    if path.is_dir():
        raise SourceError(f"{path}: is a folder, expected a video file", "Write dir: for pictures.")
    if path.is_file() and size == 0:
        raise SourceError(f"{path}: is empty", "Copy or record it again.")
    # With the protocol named, FFmpeg does not take a colon in a file name for one.
    return Decoder(f"file:{path}", str(path))
