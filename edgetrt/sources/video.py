"""Video files, anywhere PyAV runs.

    VideoFileSource(path, loop=False, realtime=False, rate_hz=None)

| option | meaning |
|---|---|
| `loop` | begin again at the end, for ever |
| `realtime` | deliver at the file's own frame rate, as a camera would: the source is live |
| `rate_hz` | the same at this rate |
"""

from __future__ import annotations

import errno
import logging
import os
import select
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

    A named pipe is opened at the first read, once somebody writes to it: `read` gives None until then.
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
        self._rate_hz, self._realtime = rate_hz, realtime
        self._decoder: Decoder | None = None
        self._pipe = NamedPipe(self._path) if self._path.is_fifo() else None
        if self._pipe is None:
            self._take(open_file(self._path))
        self._keep_time()

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
        return self._corrupt + (self._decoder.corrupt if self._decoder else 0)

    @property
    def rate_hz(self) -> float | None:
        """Frames per second as the file says, for whoever plays or records its frames."""
        return self._file_hz

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next frame; None when keeping time and none is due, or nobody writes to the pipe yet."""
        if self._decoder is None and not self._written(timeout_s):
            return None
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
            if self._decoder is not None:
                self._decoder.close()
            if self._pipe is not None:
                self._pipe.close()

    def _written(self, timeout_s: float) -> bool:
        """Wait for somebody to write to the named pipe, and open it then.

        Raises:
            EndOfStream: it was closed meanwhile.
        """
        if self._closed.is_set():
            raise EndOfStream
        assert self._pipe is not None  # noqa: S101 - files are opened at once
        if not self._pipe.wait(timeout_s):
            return False
        with self._reading:
            if self._closed.is_set():
                raise EndOfStream
            try:
                self._take(self._pipe.decoder())
            except SourceError as error:
                if getattr(error.__cause__, "errno", None) == errno.EINTR:
                    raise EndOfStream from error  # a signal: whoever sent it wants the end
                raise
            self._keep_time()
        return True

    def _keep_time(self) -> None:
        self._file_hz = self._decoder.rate_hz if self._decoder is not None else None
        pace_hz = self._rate_hz or ((self._file_hz or 30.0) if self._realtime else None)
        self._frame_hz = pace_hz or self._file_hz
        self._pace = Pace(pace_hz, self._closed) if pace_hz else None

    def _next(self) -> NDArray[np.uint8]:
        assert self._decoder is not None  # noqa: S101 - it was begun
        data = next(self._frames, None)
        if data is not None:
            return data
        if self._decoder.decoded == 0:
            raise SourceError(
                f"{self._path}: no frame could be decoded ({self.corrupt} damaged packets)",
                "Play it with another program; copy or record it again if that fails too.",
            )
        if not self._loop or self._pipe is not None:  # what a pipe gave does not come again
            raise EndOfStream
        self._corrupt += self._decoder.corrupt
        self._decoder.close()
        self._take(open_file(self._path))
        return self._next()

    def _take(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._frames: Iterator[NDArray[np.uint8]] = decoder.frames()


class NamedPipe:
    """A named pipe that is watched until somebody writes to it, and decoded then.

    Args:
        path: where it is.

    Raises:
        SourceError: it may not be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._open()
        log.warning("%s: a named pipe: waiting for somebody to write to it", path)

    def wait(self, timeout_s: float) -> bool:
        """Whether there is something to read."""
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        events = sum(found for _, found in poll.poll(timeout_s * 1e3))
        if events & select.POLLHUP and not events & select.POLLIN:  # somebody came, and left again
            self.close()
            self._file = self._open()
        return bool(events & select.POLLIN)

    def decoder(self) -> Decoder:
        """Decode what is written to it, from where it is open: opening it again would wait for a writer.

        Raises:
            SourceError: it is no video.
        """
        os.set_blocking(self._file, True)
        return Decoder(f"pipe:{self._file}", str(self._path))

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(
                f"{self._path}: cannot be opened: {error.strerror}", "Check the rights."
            ) from error

    def close(self) -> None:
        """Close it; may be called twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


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
