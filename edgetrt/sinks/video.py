"""An annotated video, drawn and encoded in a thread, so that the pipeline does not wait for it."""

from __future__ import annotations

import logging
import queue
import threading
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
from PIL import Image

from edgetrt.errors import SinkError
from edgetrt.sinks.draw import annotate

if TYPE_CHECKING:
    from pathlib import Path

    from edgetrt.types import Result

log = logging.getLogger(__name__)

QUEUE = 8
"""Results that may wait for the encoder."""

_CODECS = (("libx264", {"preset": "veryfast", "crf": "23"}), ("mpeg4", {"qscale": "4"}))


class VideoSink:
    """Writes every result as a frame of a video; frames of another size are scaled to the first one's.

    Args:
        path: an `.mp4`, `.mkv` or `.avi` file.
        fps: of the video; playback speed, whatever the pipeline's rate was.
        block: wait for the encoder when it is behind (files); otherwise leave results out (cameras).

    Raises:
        SinkError: the file cannot be written, or its kind is unknown.
    """

    def __init__(self, path: Path, fps: int = 10, *, block: bool = False) -> None:
        self._path, self._block = path, block
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(path), "w")
        except (OSError, ValueError, av.FFmpegError) as error:
            raise SinkError(
                f"{path}: cannot be written as a video: {error}",
                "Use an .mp4, .mkv or .avi file in a folder that you may write to.",
            ) from error
        self._fps = fps
        self._stream: Any = None
        self._broken = False
        self._waiting: queue.Queue[Result | None] = queue.Queue(QUEUE)
        self._thread = threading.Thread(target=self._work, name="video", daemon=True)
        self._thread.start()

    def put(self, result: Result) -> bool:
        """Hand it to the encoder; False when it is behind (unless told to wait) or broken."""
        if self._broken or not self._thread.is_alive():
            return False
        try:
            self._waiting.put(result, block=self._block)
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        """Encode what waits and finish the file."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()

    def _work(self) -> None:
        try:
            while (result := self._waiting.get()) is not None:
                self._encode(result)
            if self._stream is not None:
                self._container.mux(self._stream.encode())
            self._container.close()
        except (OSError, ValueError, av.FFmpegError) as error:
            self._broken = True
            log.warning("%s: the video ends here: %s", self._path, error)
            self._drain()

    def _encode(self, result: Result) -> None:
        picture = annotate(result)
        if self._stream is None:
            self._stream = self._add_stream(picture.shape[1], picture.shape[0])
        size = (self._stream.width, self._stream.height)
        if (picture.shape[1], picture.shape[0]) != size:
            picture = _scaled(picture, size)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def _add_stream(self, width: int, height: int) -> Any:
        """The best codec that this build of FFmpeg has; sizes must be even."""
        for name, options in _CODECS:
            if name in av.codecs_available:
                stream = self._container.add_stream(name, rate=Fraction(self._fps), options=options)
                break
        else:
            raise ValueError("this FFmpeg has neither H.264 nor MPEG-4")
        stream.width, stream.height = width - width % 2, height - height % 2
        stream.pix_fmt = "yuv420p"
        return stream

    def _drain(self) -> None:
        """After a failure: take what waits, so that a pipeline that waits for room goes on."""
        while self._waiting.get() is not None:
            pass


def _scaled(picture: Any, size: tuple[int, int]) -> Any:
    import numpy as np

    return np.asarray(Image.fromarray(picture).resize(size))
