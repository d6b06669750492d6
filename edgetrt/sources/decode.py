"""Compressed video to RGB arrays through PyAV; the only module of the sources that imports it."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import av
import av.logging
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from edgetrt.errors import SourceError, SourceLostError

log = logging.getLogger(__name__)

if av.logging.get_level() is not None:  # PyAV before 13 passes FFmpeg's own messages on by default:
    av.logging.set_level(av.logging.PANIC)  # they repeat ours, and show addresses with passwords

_DAMAGE_LIMIT = 200
"""Read errors in a row after which the rest of a file is given up."""


class Decoder:
    """The first video stream of a file or an address.

    Args:
        address: what FFmpeg opens.
        name: what people call it; never holds a password.
        options: FFmpeg's, for the container.
        timeout_s: how long opening, and each read, may take; None for files.
        threading: `AUTO` is fastest; `SLICE` adds no delay, for live streams.

    Raises:
        SourceError: nothing there, nothing readable, or no video in it.
    """

    def __init__(
        self,
        address: str,
        name: str,
        *,
        options: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        threading: Literal["AUTO", "SLICE"] = "AUTO",
    ) -> None:
        self.name = name
        self.corrupt = 0
        self.decoded = 0
        self._reformatter = VideoReformatter()
        began = time.monotonic()
        try:
            self._container = _open(address, options=dict(options or {}), timeout=timeout_s)
        except (av.FFmpegError, OSError) as error:
            late = timeout_s is not None and time.monotonic() - began >= timeout_s
            raise _not_opened(error, name, late=late, remote=timeout_s is not None) from error
        if not self._container.streams.video:
            self.close()
            raise SourceError(
                f"{name}: has no video stream",
                "It may be sound alone, or cut off before its index; play it with another program.",
            )
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = threading

    @property
    def rate_hz(self) -> float | None:
        """Frames per second as the container says; None when it does not."""
        rate = self._stream.average_rate or self._stream.base_rate
        return float(rate) if rate else None

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Yield each picture, h×w×3 in RGB order, of the size it has in the stream.

        Damaged packets are skipped and counted in `corrupt`; decoding goes on behind them.

        Raises:
            SourceLostError: reading failed, or took longer than `timeout_s`.
        """
        damaged = 0
        while damaged <= _DAMAGE_LIMIT:
            try:
                for packet in self._container.demux(self._stream):
                    for frame in self._decode(packet):
                        damaged = 0
                        self.decoded += 1
                        yield self._array(frame)
            except av.EOFError:
                return
            except av.InvalidDataError:
                damaged += 1
                self.corrupt += 1
            except (av.FFmpegError, OSError) as error:
                if getattr(error, "errno", None) == errno.EINTR:
                    return  # a signal came while a pipe was waited for: whoever sent it wants the end
                raise SourceLostError(f"{self.name}: lost: {reason(error)}") from error
            else:
                return
        log.warning("%s: gave up after %d read errors in a row", self.name, damaged)

    def close(self) -> None:
        """Release file or connection; not while another thread is inside `frames`."""
        self._container.close()

    def _decode(self, packet: Any) -> list[Any]:
        try:
            frames = packet.decode()
        except av.EOFError:
            return []
        except av.FFmpegError as error:
            log.debug("%s: skipped a damaged packet: %s", self.name, error)
            self.corrupt += 1
            return []
        whole = [frame for frame in frames if not frame.is_corrupt]
        self.corrupt += len(frames) - len(whole)
        return whole

    def _array(self, frame: Any) -> NDArray[np.uint8]:
        # One reformatter for all frames: frame.to_ndarray(format=...) makes a scaler for each frame.
        packed: Any = self._reformatter.reformat(frame, format="rgb24")
        picture: NDArray[np.uint8] = packed.to_ndarray()
        turns = round(getattr(frame, "rotation", 0) / 90) % 4  # phones store turned pictures
        return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _open(address: str, **settings: Any) -> Any:
    """Open what may have a title in no known encoding, which PyAV before 19 stumbles over."""
    try:
        return av.open(address, **settings)
    except UnicodeDecodeError:
        return av.open(address, metadata_errors="ignore", **settings)


def reason(error: BaseException) -> str:
    """Say what went wrong without FFmpeg's file name, which holds the password."""
    if isinstance(error, av.ExitError):
        return "no data in time"
    return str(getattr(error, "strerror", None) or error)


def _not_opened(error: Exception, name: str, *, late: bool, remote: bool) -> SourceError:
    if isinstance(error, (av.HTTPUnauthorizedError, av.HTTPForbiddenError)):
        return SourceError(
            f"{name}: user name or password refused",
            "Write them into the address: rtsp://user:password@host/path.",
        )
    if isinstance(error, av.HTTPNotFoundError):
        return SourceError(f"{name}: the server has no such stream", "Check the path.")
    if isinstance(error, ConnectionRefusedError):
        return SourceError(f"{name}: connection refused", "Check host and port.")
    if late or isinstance(error, (av.ExitError, TimeoutError)):
        return SourceError(
            f"{name}: no answer in time",
            "Check that the device is on and reachable, or raise `timeout_s`.",
        )
    if remote:
        return SourceError(
            f"{name}: no stream: {reason(error)}", "Check that host and port are those of a camera."
        )
    if isinstance(error, av.InvalidDataError):
        return SourceError(
            f"{name}: not a video, or damaged at its beginning or cut off",
            "Play it with another program; copy or record it again if that fails too.",
        )
    return SourceError(
        f"{name}: cannot be opened: {reason(error)}", "Check the name and the rights."
    )
