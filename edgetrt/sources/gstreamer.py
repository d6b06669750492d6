"""Cameras and pipelines through GStreamer, in the formats that they deliver: never RGB made by the CPU.

    CsiSource("0", width=1920, height=1080, fps=30)                     csi:0?width=1920&height=1080&fps=30
    V4l2Source("/dev/video0", width=640, height=480, format="yuyv")     v4l2:/dev/video0?format=yuyv
    GStreamerSource("videotestsrc ! video/x-raw,format=NV12 ! appsink")  gst:videotestsrc ! … ! appsink

| option | meaning |
|---|---|
| `width`, `height`, `fps` | what the camera is asked for; left out = its own choice |
| `format` | of a `v4l2` camera: `yuyv`, `nv12`, `bgrx`, `gray`, or `mjpeg`, which is decoded to NV12 |
| `nvmm` | of a `csi` camera: 0 lets the CPU copy each picture instead of leaving it where the GPU reads it |
| `timeout_s` | the first picture, and any silence, may take this long before the camera counts as lost |

One slot lies between the camera's thread and `read`: the newest picture wins, and a gap in `seq` tells of
those that nobody took. A camera that is lost is opened again, with growing pauses.

GStreamer's Python modules are the system's (`scripts/setup gstreamer` installs them).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Any, Literal

from edgetrt.backoff import full_jitter_s
from edgetrt.errors import SourceError, SourceLostError
from edgetrt.ports import EndOfStream
from edgetrt.sources import nvbufsurface
from edgetrt.sources.gstreamer_frames import Unpacker
from edgetrt.sources.gstreamer_library import explain, gst, launch
from edgetrt.sources.uri import redact
from edgetrt.types import Frame

log = logging.getLogger(__name__)

CameraFormat = Literal["yuyv", "nv12", "bgrx", "gray", "mjpeg"]

BUFFERS = 10
"""Of pictures in NVMM: one in each lane, slot and glimpse, one being written, and some to spare."""

_ROWS = f"bl-output=false output-buffers={BUFFERS}"
"""Of nvvidconv: rows one after the other, which a kernel can read."""

_CAPS = {"yuyv": "YUY2", "nv12": "NV12", "bgrx": "BGRx", "gray": "GRAY8"}


class GStreamerSource:
    """The newest picture of a GStreamer pipeline.

    Args:
        pipeline: as `gst-launch-1.0` takes it; the last element is an `appsink`, which is added when it
            is missing. Pictures in NVMM, or in main memory: NV12, YUY2, BGRx, RGBx, BGRA, RGBA, RGB, BGR
            or GRAY8.
        name: what people call it; the pipeline itself when not given.
        timeout_s: limit for the first picture and for silence.
        retry_s: upper limit of the first pause before it is opened again, and of any pause.
        ends: its end is the end of the stream, as a file's is; a camera that ends was lost.
        instead: the pipeline for the source's whole life where this one does not open, or its first
            picture cannot be read.

    Raises:
        SourceError: no GStreamer, an element or a camera that is not there, or no picture in time.
    """

    def __init__(
        self,
        pipeline: str,
        *,
        name: str = "",
        timeout_s: float = 5.0,
        retry_s: tuple[float, float] = (0.5, 30.0),
        ends: bool = True,
        instead: str = "",
    ) -> None:
        self._text, self._name = pipeline, name or f"gst:{redact(pipeline)}"
        self._timeout_s, self._retry_s, self._ends = timeout_s, retry_s, ends
        self._gst = gst()
        self._closed = threading.Event()
        self._fresh = threading.Condition()
        self._changing = threading.RLock()
        self._slot: tuple[Any, int, int] | None = None
        self._failure: SourceError | None = None
        self._ended = False
        self._seq = self._reconnects = self._attempt = 0
        self._due_s: float | None = None
        self._pipeline: Any = None
        if instead:
            self._start_either(instead)
        else:
            self._start()

    @property
    def live(self) -> bool:
        """Always: what nobody reads is lost."""
        return True

    @property
    def reconnects(self) -> int:
        """How often it was lost and delivered again."""
        return self._reconnects

    def read(self, timeout_s: float) -> Frame | None:
        """Return the newest frame that was not returned before, or None.

        Raises:
            EndOfStream: it was closed, or a pipeline that ends has ended.
            SourceLostError: pictures come in a format that no frame has.
        """
        with self._fresh:
            self._fresh.wait_for(self._something, timeout_s)
            if self._closed.is_set():
                raise EndOfStream
            taken, self._slot = self._slot, None
            ended, failure = self._ended, self._failure
        if taken is not None:
            return self._frame(*taken)
        if ended and self._ends:
            raise EndOfStream
        if failure is None and time.monotonic() - self._heard_s > self._timeout_s:
            failure = SourceLostError(f"{self._name}: no picture for {self._timeout_s:g} s")
        if failure is not None or ended:
            self._again(failure, timeout_s)
        return None

    def close(self) -> None:
        """Stop the pipeline."""
        self._closed.set()
        with self._fresh:
            self._fresh.notify_all()
        self._stop()

    def _something(self) -> bool:
        return (
            self._slot is not None
            or self._failure is not None
            or self._ended
            or self._closed.is_set()
        )

    def _start(self) -> None:
        """Open it for the first time."""
        self._open()
        try:
            self._await_first()
        except BaseException:
            self._stop()
            raise

    def _start_either(self, instead: str) -> None:
        """Start and read the first picture; where that fails, go on with the other pipeline and say why."""
        try:
            self._start()
            if self._slot is not None:
                self._frame(*self._slot).kept()
        except SourceError as error:
            refusal = error.message
        else:
            return
        self._stop()
        self._text, self._seq = instead, 0
        self._start()
        log.warning("%s: the CPU copies each picture: %s", self._name, refusal)

    def _open(self) -> None:
        """Build the pipeline and let it run; what is wrong with the camera comes as a failure."""
        with self._changing:
            if self._closed.is_set():
                return
            with self._fresh:
                self._slot = self._failure = None
                self._ended = False
            self._unpack = Unpacker(self._name)
            self._heard_s = time.monotonic()
            self._pipeline, sink = launch(self._text, self._name)
            sink.connect("new-sample", self._on_sample)
            self._pipeline.get_bus().set_sync_handler(self._on_message, None)
            self._pipeline.set_state(self._gst.State.PLAYING)

    def _await_first(self) -> None:
        with self._fresh:
            self._fresh.wait_for(self._something, self._timeout_s)
            if self._failure is not None:
                raise self._failure
            if self._slot is None and not self._closed.is_set():
                what = "ended before its first picture" if self._ended else "no picture in time"
                raise SourceError(
                    f"{self._name}: {what} ({self._timeout_s:g} s)",
                    "Try the same pipeline with gst-launch-1.0, or raise `timeout_s`.",
                )

    def _stop(self) -> None:
        with self._changing:
            pipeline, self._pipeline = self._pipeline, None
            if pipeline is not None:
                pipeline.set_state(self._gst.State.NULL)
                pipeline.get_bus().set_sync_handler(None, None)

    def _again(self, failure: SourceError | None, timeout_s: float) -> None:
        """Open a lost camera anew once its pause is over; never longer than a read may take."""
        now_s = time.monotonic()
        if self._due_s is None:
            self._stop()
            pause_s = full_jitter_s(self._attempt, *self._retry_s, draw=random.random())  # noqa: S311
            level = logging.DEBUG if self._attempt else logging.WARNING
            why = failure.message if failure is not None else f"{self._name}: the camera ended"
            log.log(level, "%s; opening it again in %.1f s", why, pause_s)
            self._attempt, self._due_s = self._attempt + 1, now_s + pause_s
        ahead_s = self._due_s - now_s
        if self._closed.wait(min(max(0.0, ahead_s), timeout_s)) or ahead_s > timeout_s:
            return
        self._due_s = None
        try:
            self._open()
        except SourceError as error:  # an element that was there is not any more
            with self._fresh:
                self._failure = error

    def _on_sample(self, sink: Any) -> Any:
        """Keep the newest picture; runs in the camera's thread."""
        sample = sink.emit("pull-sample")
        if sample is not None:
            now_ns = time.monotonic_ns()
            with self._fresh:
                self._slot = sample, self._seq, now_ns
                self._seq += 1
                self._heard_s = now_ns / 1e9
                if self._attempt:
                    log.info("%s: back after %d attempts", self._name, self._attempt)
                    self._reconnects, self._attempt = self._reconnects + 1, 0
                self._fresh.notify_all()
        return self._gst.FlowReturn.OK

    def _on_message(self, _bus: Any, message: Any, _data: object) -> Any:
        """Note errors and the end; runs in GStreamer's threads."""
        kinds = self._gst.MessageType
        if message.type in (kinds.ERROR, kinds.EOS):
            with self._fresh:
                if message.type == kinds.EOS:
                    self._ended = True
                elif self._failure is None:
                    self._failure = explain(self._name, *message.parse_error())
                self._fresh.notify_all()
        return self._gst.BusSyncReply.DROP

    def _frame(self, sample: Any, seq: int, captured_ns: int) -> Frame:
        pixels, pixel_format, rate_hz = self._unpack(sample)
        return Frame(pixels, pixel_format, seq, captured_ns, rate_hz=rate_hz)


class CsiSource(GStreamerSource):
    """A CSI camera of a Jetson, through its image processor (`nvarguscamerasrc`): NV12.

    Pictures stay in NVMM, where the GPU reads them. Where NVIDIA's library is not there, or the first
    picture cannot be read, each is copied into main memory instead.

    Args:
        sensor: number of the camera.
        width, height, fps: what the sensor is asked for.
        timeout_s: limit for the first picture and for silence.
        nvmm: False copies each picture into main memory in any case.

    Raises:
        SourceError: no Jetson's plug-ins, no such camera, or a mode that it does not have.
    """

    def __init__(
        self,
        sensor: str = "0",
        *,
        width: int = 0,
        height: int = 0,
        fps: float = 0,
        timeout_s: float = 10.0,
        nvmm: bool = True,
    ) -> None:
        caps = _caps("video/x-raw(memory:NVMM),format=NV12", width, height, fps)
        camera = f"nvarguscamerasrc sensor-id={int(sensor)} ! {caps} ! nvvidconv"
        name = f"csi:{sensor}"
        text, instead = f"{camera} ! video/x-raw,format=NV12", ""
        if nvmm and _shared(name):
            lent = f"{camera} {_ROWS} ! video/x-raw(memory:NVMM),format=NV12"
            text, instead = lent, text
        super().__init__(text, name=name, timeout_s=timeout_s, ends=False, instead=instead)


class V4l2Source(GStreamerSource):
    """A USB camera, or any other that Video4Linux offers.

    Args:
        device: its file.
        width, height, fps: what it is asked for.
        format: of its pictures.
        timeout_s: limit for the first picture and for silence.

    Raises:
        SourceError: no such camera, not allowed, in use, or it has no such format and size.
    """

    def __init__(
        self,
        device: str = "/dev/video0",
        *,
        width: int = 0,
        height: int = 0,
        fps: float = 0,
        format: CameraFormat = "yuyv",
        timeout_s: float = 5.0,
    ) -> None:
        asked = "image/jpeg" if format == "mjpeg" else f"video/x-raw,format={_CAPS[format]}"
        quoted = device.replace("\\", "\\\\").replace('"', '\\"')
        text = f'v4l2src device="{quoted}" ! {_caps(asked, width, height, fps)}'
        if format == "mjpeg":
            text += " ! jpegdec ! videoconvert ! video/x-raw,format=NV12"
        super().__init__(text, name=f"v4l2:{device}", timeout_s=timeout_s, ends=False)


def _shared(name: str) -> bool:
    """Say whether this machine has what NVMM is read with; if not, log why."""
    try:
        nvbufsurface.load()
    except SourceLostError as error:
        log.info("%s: the CPU copies each picture: %s", name, error.message)
        return False
    return True


def _caps(kind: str, width: int, height: int, fps: float) -> str:
    parts = [kind]
    if width:
        parts.append(f"width={width}")
    if height:
        parts.append(f"height={height}")
    if fps:
        parts.append(f"framerate={round(fps * 1000)}/1000")
    return ",".join(parts)
