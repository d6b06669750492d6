"""Stand-ins for a Jetson's GStreamer elements: a CSI camera, and the converter with its few buffers.

`nvvidconv` hands out pictures in main memory, or with `bl-output=false` descriptions of buffers in NVMM,
which are used again when they come back and never before: with all of them away the camera stands still.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from edgetrt.sources.gstreamer_library import gst
from tests.standins.nvmm import Buffer

SIZE = (66, 38)
PERIOD_S = 0.004
_RAW = "format=NV12,width=66,height=38,framerate=100/1"
_NVMM = f"video/x-raw(memory:NVMM),{_RAW}"


class Jetson:
    """What the elements are made of.

    Attributes:
        make: gives a new buffer in NVMM, block-linear or not.
        paint: lets the hardware write picture number so-and-so.
        old: nvvidconv has no property `bl-output`.
        pictures: that a camera delivers before it ends; None = it does not end.
        buffers: all that were made.
    """

    make: Callable[[bool], Buffer]
    paint: Callable[[Buffer, int], None]
    old = False
    pictures: int | None = None

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []


@contextmanager
def elements(jetson: Jetson) -> Iterator[None]:
    """Offer `nvarguscamerasrc` and `nvvidconv` to pipelines."""
    library = gst()
    kinds = [_camera(jetson), _converter(jetson)]
    for kind in kinds:
        kind.set_metadata(kind.__name__, "Filter", "A stand-in", "edgetrt")
        library.Element.register(None, kind.element, 0, kind)
    yield
    registry = library.Registry.get()
    for kind in kinds:
        registry.remove_feature(registry.find_feature(kind.element, library.ElementFactory))


def _made(bin_: Any, kind: str, **properties: Any) -> Any:
    element = gst().ElementFactory.make(kind)
    for name, value in properties.items():
        element.set_property(name.replace("_", "-"), value)
    bin_.add(element)
    return element


def _pad(bin_: Any, name: str, element: Any) -> None:
    bin_.add_pad(gst().GhostPad.new(name, element.get_static_pad(name)))


def _caps(text: str) -> Any:
    return gst().Caps.from_string(text)


def _camera(jetson: Jetson) -> Any:
    from gi.repository import GObject

    class StandInCamera(gst().Bin):  # type: ignore[misc,name-defined]
        element: ClassVar[str] = "nvarguscamerasrc"
        sensor_id = GObject.Property(type=int, default=0)

        def __init__(self) -> None:
            super().__init__()
            self.taken = 0
            source = _made(self, "appsrc", caps=_caps(_NVMM), max_buffers=1, is_live=True)
            source.connect("need-data", self.wanted)
            _pad(self, "src", source)

        def wanted(self, source: Any, _length: int) -> None:
            time.sleep(PERIOD_S)
            self.taken += 1
            if jetson.pictures is not None and self.taken > jetson.pictures:
                source.emit("end-of-stream")
            else:
                source.emit("push-buffer", gst().Buffer.new_wrapped(b"raw"))

    return StandInCamera


def _converter(jetson: Jetson) -> Any:
    library = gst()
    from gi.repository import GObject

    class StandInConverter(library.Bin):  # type: ignore[misc,name-defined]
        element: ClassVar[str] = "nvvidconv"
        output_buffers = GObject.Property(type=int, default=4)
        if not jetson.old:
            bl_output = GObject.Property(type=bool, default=True)

        def __init__(self) -> None:
            super().__init__()
            self.pool: Any = None
            self.painted = 0
            entry = _made(self, "appsink", emit_signals=True, sync=False, **{"async": False})
            self.leaving = _made(self, "appsrc", is_live=True)
            entry.connect("new-sample", self.convert)
            entry.connect("eos", lambda _: self.leaving.emit("end-of-stream"))
            _pad(self, "sink", entry)
            _pad(self, "src", self.leaving)

        def do_change_state(self, change: Any) -> Any:
            if change == library.StateChange.NULL_TO_READY:
                self.prepare()
            if change == library.StateChange.PLAYING_TO_PAUSED and self.pool is not None:
                self.pool.set_active(False)  # nobody waits for a buffer any more
            return library.Bin.do_change_state(self, change)

        def prepare(self) -> None:
            """Take what comes behind for what is wanted."""
            behind = self.get_static_pad("src").get_peer().query_caps(None).to_string()
            lent = "NVMM" in behind
            self.leaving.set_property("caps", _caps(_NVMM if lent else f"video/x-raw,{_RAW}"))
            if lent:
                self.pool = library.BufferPool()
                config = self.pool.get_config()
                library.BufferPool.config_set_params(config, None, 64, 0, self.output_buffers)
                self.pool.set_config(config)
                self.pool.set_active(True)

        def convert(self, entry: Any) -> Any:
            entry.emit("pull-sample")
            made = copied() if self.pool is None else self.lent()
            if made is None:
                return library.FlowReturn.FLUSHING
            return self.leaving.emit("push-buffer", made)

        def lent(self) -> Any:
            """The next free buffer, waiting for one, with a new picture in it."""
            _, buffer = self.pool.acquire_buffer(None)
            if buffer is None:
                return None
            raw = bytes(buffer.extract_dup(0, 64))
            surface = next((known for known in jetson.buffers if known.raw == raw), None)
            if surface is None:
                surface = jetson.make(self.bl_output)
                jetson.buffers.append(surface)
                buffer.fill(0, surface.raw)
            jetson.paint(surface, self.painted)
            self.painted += 1
            return buffer

    return StandInConverter


def copied() -> Any:
    """A picture in main memory: Y is 1."""
    width, height = SIZE
    row = (width + 3) // 4 * 4
    return gst().Buffer.new_wrapped(b"\1" * (row * height) + b"\x80" * (row * height // 2))
