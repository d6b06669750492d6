"""An annotated video, drawn and encoded in a thread, so that the pipeline does not wait for it.

    VideoSink(path, fps=10, block=False)

It plays as fast as the source's frames say they came; frames that were left out stay left out.

The ending chooses the container: `.mp4`, `.mkv` or `.avi`. The picture is H.264, or MPEG-4 where this
FFmpeg has no H.264 encoder. An `.mp4` is written in fragments, so that it plays up to its last two seconds
when the plug is pulled.
"""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import av.logging
import numpy as np
from PIL import Image

from edgetrt.errors import SinkError, SourceError
from edgetrt.sinks.draw import annotate
from edgetrt.sinks.image import check_writable

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgetrt.types import Frame, Result

log = logging.getLogger(__name__)

if av.logging.get_level() is not None:  # PyAV before 13 passes FFmpeg's own messages on by default
    av.logging.set_level(av.logging.PANIC)

QUEUE = 8
"""Results that may wait for the encoder."""

FASTEST_HZ = 240.0
"""A source that says more than this counts something else than frames."""

_CODECS = (("libx264", {"preset": "veryfast", "crf": "23"}), ("mpeg4", {"qscale": "4"}))


class VideoSink:
    """Writes every result as a frame of a video; frames of another size are scaled to the first one's.

    Args:
        path: an `.mp4`, `.mkv` or `.avi` file; replaced when there is one.
        fps: playback speed where the source does not say its own (pictures, drawn scenes).
        block: wait for the encoder when it is behind (files); otherwise leave results out (cameras).

    Raises:
        SinkError: the file cannot be written, or its kind is unknown.
    """

    def __init__(self, path: Path, fps: float = 10, *, block: bool = False) -> None:
        if path.suffix.lower() not in (".mp4", ".mkv", ".avi"):
            raise SinkError(f"{path}: expected an .mp4, .mkv or .avi file", "Change its ending.")
        if not fps > 0:
            raise SinkError(f"{path}: expected fps above 0, got {fps}")
        check_writable(path)
        self._path, self._block = path, block
        self._fps = _fraction(fps)
        self._seq: int | None = None
        self._ticks = 0
        self._container: Any = None
        self._stream: Any = None
        self._closed = False
        self._waiting: queue.Queue[Result | None] = queue.Queue(QUEUE)
        self._thread = threading.Thread(target=self._work, name="video", daemon=True)
        self._broken = False
        self._refused = self._failed = 0  # counted by one thread each
        self._thread.start()

    @property
    def lost(self) -> int:
        """Results that failed with the encoder or the disk; those it had inside are not among them."""
        return self._refused + self._failed

    def put(self, result: Result) -> bool:
        """Hand it to the encoder; False when it is behind (unless told to wait), or broken."""
        if self._broken:
            self._refused += 1
            return False
        if self._closed or (self._waiting.full() and not self._block):
            return False
        try:
            self._waiting.put(replace(result, frame=result.frame.kept()), block=self._block)
        except (queue.Full, SourceError):
            return False
        return True

    def close(self) -> None:
        """Encode what waits and finish the file."""
        if not self._closed:
            self._closed = True
            self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        more = True
        try:
            while (result := self._waiting.get()) is not None:
                self._encode(result.frame, annotate(result))
            more = False
            if self._stream is not None:
                self._container.mux(self._stream.encode())
                self._container.close()
        except Exception as error:  # noqa: BLE001 - or a pipeline would wait for room for ever
            self._broken, self._failed = True, self._failed + 1
            log.warning("%s: the video ends here: %s", self._path, error)
            if more:
                self._drain()

    def _encode(self, source: Frame, picture: NDArray[np.uint8]) -> None:
        if self._stream is None:
            if source.rate_hz is not None and 0.1 <= source.rate_hz <= FASTEST_HZ:
                self._fps = _fraction(source.rate_hz)
            self._open(picture.shape[1], picture.shape[0])
        fitted = fit(picture, self._stream.width, self._stream.height)
        frame = av.VideoFrame.from_ndarray(fitted, format="rgb24")
        frame.pts, frame.time_base = self._tick(source.seq), 1 / self._fps
        self._container.mux(self._stream.encode(frame))

    def _tick(self, seq: int) -> int:
        """When a frame is shown, in frames since the first; a source opened again begins at 0 again."""
        if self._seq is not None:
            self._ticks += max(1, seq - self._seq)
        self._seq = seq
        return self._ticks

    def _open(self, width: int, height: int) -> None:
        """Begin the file with the best codec that this build of FFmpeg has; its sizes must be even."""
        codec = next(((n, o) for n, o in _CODECS if n in av.codecs_available), None)
        if codec is None:
            raise SinkError("this FFmpeg has neither H.264 nor MPEG-4", "Install PyAV from PyPI.")
        name, options = codec
        self._container = av.open(str(self._path), "w", options=self._container_options())
        self._stream = self._container.add_stream(name, rate=self._fps, options=options)
        self._stream.width, self._stream.height = max(2, width & ~1), max(2, height & ~1)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.gop_size = max(1, round(2 * self._fps))
        self._stream.codec_context.thread_count = 2  # the other cores are for the networks

    def _container_options(self) -> dict[str, str]:
        if self._path.suffix.lower() != ".mp4":
            return {}
        if av.library_versions["libavformat"] >= (61, 7, 0):  # whole again once it is closed
            return {"movflags": "hybrid_fragmented"}
        return {"movflags": "frag_keyframe+empty_moov+default_base_moof"}

    def _drain(self) -> None:
        """After a failure: take what waits, so that a pipeline that waits for room goes on."""
        while self._waiting.get() is not None:
            self._failed += 1


def _fraction(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)


def fit(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Give h×w×3 the video's size: an odd last row or column is cut off, anything else is scaled."""
    if 0 <= picture.shape[1] - width <= 1 and 0 <= picture.shape[0] - height <= 1:
        return np.ascontiguousarray(picture[:height, :width])
    return np.asarray(Image.fromarray(picture).resize((width, height)))
