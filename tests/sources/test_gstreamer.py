"""Cameras through GStreamer, with its own test pictures in their place."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from edgetrt.app.pipelines import open_source
from edgetrt.config import PreprocessConfig
from edgetrt.errors import SourceError, SourceLostError
from edgetrt.pixels import to_rgb
from edgetrt.ports import EndOfStream, Source
from edgetrt.runtime.preprocess import Preprocessor
from edgetrt.sources import uri
from edgetrt.sources.gstreamer import CsiSource, GStreamerSource, V4l2Source
from edgetrt.sources.gstreamer_library import gst
from edgetrt.types import Frame, TensorSpec
from tests.cli.command import ROOT

try:
    gst()
except SourceError as error:
    pytest.skip(error.message, allow_module_level=True)

RAW = [
    ("NV12", "nv12"),
    ("YUY2", "yuyv"),
    ("BGRx", "bgrx"),
    ("BGRA", "bgrx"),
    ("RGBx", "rgbx"),
    ("RGBA", "rgbx"),
    ("RGB", "rgb"),
    ("BGR", "bgr"),
]


def picture(pixel_format: str, size: str = "width=66,height=50", rate: int = 100) -> str:
    return f"video/x-raw,format={pixel_format},{size},framerate={rate}/1"


def camera(caps: str, more: str = "", pattern: str = "pattern=ball") -> str:
    return f"videotestsrc is-live=true {pattern} ! {caps} {more} ! appsink"


@contextmanager
def opened(make: Callable[[], Source]) -> Iterator[Source]:
    source = make()
    try:
        yield source
    finally:
        source.close()


def take(source: Source, count: int = 1) -> list[Frame]:
    frames: list[Frame] = []
    for _ in range(count * 40):
        frame = source.read(timeout_s=0.25)
        if frame is not None:
            frames.append(frame)
        if len(frames) == count:
            return frames
    raise AssertionError(f"only {len(frames)} of {count} frames came")


@pytest.mark.parametrize(("theirs", "ours"), RAW)
@pytest.mark.parametrize("rgb", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40)])
def test_colours_come_through_in_every_format(
    theirs: str, ours: str, rgb: tuple[int, int, int]
) -> None:
    color = 0xFF000000 | rgb[0] << 16 | rgb[1] << 8 | rgb[2]
    solid = f"pattern=solid-color foreground-color={color}"
    with opened(lambda: GStreamerSource(camera(picture(theirs), pattern=solid))) as source:
        (frame,) = take(source)
    assert (frame.format, frame.size, frame.rate_hz) == (ours, (66, 50), 100.0)
    got = to_rgb(frame.data, frame.format).astype(int)
    assert got.shape == (50, 66, 3)
    assert np.abs(got - rgb).max() <= 3


def test_rows_and_columns_are_where_they_were() -> None:
    """Rows of 66 bytes are padded to 68 by GStreamer: a picture read without care would be sheared."""
    pictures = {}
    for theirs in ("GRAY8", "RGB", "BGRx"):
        text = camera(picture(theirs), pattern="pattern=smpte")
        with opened(lambda text=text: GStreamerSource(text)) as source:
            (frame,) = take(source)
        pictures[theirs] = to_rgb(frame.data, frame.format)
    np.testing.assert_array_equal(pictures["RGB"], pictures["BGRx"])
    bars = pictures["GRAY8"][:20, :, 0].astype(int)
    assert (bars == bars[0]).all()
    assert np.count_nonzero(np.diff(bars[0])) >= 6


def test_a_camera_s_picture_is_what_a_network_on_the_cpu_sees() -> None:
    buffer = np.zeros((1, 3, 50, 66), np.float32)
    preprocessor = Preprocessor(
        TensorSpec("x", (1, 3, 50, 66), "float32"), buffer, PreprocessConfig()
    )
    solid = f"pattern=solid-color foreground-color={0xFF2864C8}"
    with opened(lambda: GStreamerSource(camera(picture("NV12"), pattern=solid))) as source:
        (frame,) = take(source)
    preprocessor.write(frame)
    np.testing.assert_allclose(buffer[0].mean(axis=(1, 2)) * 255, (0x28, 0x64, 0xC8), atol=3)


def test_the_newest_picture_wins_and_gaps_tell() -> None:
    with opened(lambda: GStreamerSource(camera(picture("GRAY8")))) as source:
        assert source.live
        numbers = [take(source)[0].seq]
        for _ in range(50):
            time.sleep(0.05)
            numbers.append(take(source)[0].seq)
            if numbers[-1] > numbers[-2] + 1:
                break
    assert numbers[-1] > numbers[-2] + 1
    assert numbers == sorted(set(numbers))


def test_a_frame_is_never_written_to_again() -> None:
    text = camera(picture("NV12"), pattern="pattern=snow")
    with opened(lambda: GStreamerSource(text)) as source:
        first = take(source)[0]
        copy = first.data.copy()
        later = take(source, 5)[-1]
    np.testing.assert_array_equal(first.data, copy)
    assert (later.data != copy).any()


def test_an_end_is_the_end() -> None:
    text = f"videotestsrc num-buffers=3 ! {picture('GRAY8')} ! appsink"
    with opened(lambda: GStreamerSource(text)) as source:
        frame = take(source)[0]
        with pytest.raises(EndOfStream):
            for _ in range(40):
                frame = source.read(0.25) or frame
    assert frame.seq == 2


@pytest.mark.parametrize(
    "text",
    [
        camera(picture("GRAY8"), "! identity error-after=4"),
        f"videotestsrc is-live=true num-buffers=4 ! {picture('GRAY8')} ! appsink",
    ],
    ids=["error", "end"],
)
def test_a_lost_camera_comes_back(text: str) -> None:
    def make() -> GStreamerSource:
        return GStreamerSource(text, ends=False, retry_s=(0.01, 0.02))

    with opened(make) as source:
        assert source.reconnects == 0
        numbers: list[int] = []
        for _ in range(200):
            frame = source.read(timeout_s=0.25)
            numbers += [frame.seq] if frame is not None else []
            if source.reconnects >= 2:
                break
        assert source.reconnects >= 2
    assert numbers == sorted(set(numbers))


def test_a_silent_camera_counts_as_lost() -> None:
    def make() -> GStreamerSource:
        text = camera(picture("GRAY8", rate=1))
        return GStreamerSource(text, timeout_s=0.3, retry_s=(0.01, 0.02))

    with opened(make) as source:
        for _ in range(100):
            source.read(timeout_s=0.1)
            if source.reconnects:
                break
        assert source.reconnects


def test_no_picture_in_time_is_told() -> None:
    with pytest.raises(SourceError, match="no picture in time") as caught:
        GStreamerSource(camera(picture("GRAY8"), "! valve drop=true"), timeout_s=0.2)
    assert "gst-launch" in caught.value.hint


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (lambda: GStreamerSource("nosuchsrc ! appsink"), 'no element "nosuchsrc"', "Install"),
        (lambda: GStreamerSource("videotestsrc ! ! appsink"), "syntax error", "gst-launch-1.0"),
        (lambda: GStreamerSource("videotestsrc"), None, ""),
        (lambda: GStreamerSource("appsink"), "has no appsink at its end", "joined by"),
        (
            lambda: GStreamerSource("videotestsrc ! tee name=t ! appsink t. ! appsink"),
            "has 2 appsink",
            "joined by",
        ),
        (
            lambda: GStreamerSource(
                "videotestsrc ! jpegenc ! decodebin ! video/x-raw,format=GRAY8,width=3 ! appsink"
            ),
            "cannot be had",
            "size, rate and format",
        ),
        (
            lambda: GStreamerSource(
                camera(picture("NV12"), "! capsfilter caps=video/x-raw,format=GRAY8")
            ),
            "cannot be had",
            "size, rate and format",
        ),
        (lambda: GStreamerSource("filesrc location=/no/such ! appsink"), "No such file", "Check"),
        (lambda: V4l2Source("/dev/video77"), "/dev/video77", "ls /dev/video"),
        (lambda: V4l2Source('/dev/"77', format="mjpeg"), '/dev/"77', "ls /dev/video"),
        (CsiSource, 'no element "nvarguscamerasrc"', "nvidia-l4t-camera"),
    ],
)
def test_what_is_wrong_is_told(make: Callable[[], Source], message: str | None, hint: str) -> None:
    if message is None:  # an appsink is added where none is
        make().close()
        return
    with pytest.raises(SourceError) as caught:
        make()
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("caps", [picture("I420"), picture("NV12", "width=65,height=50")])
def test_pictures_that_no_frame_can_hold_are_refused(caps: str) -> None:
    with opened(lambda: GStreamerSource(camera(caps))) as source, pytest.raises(SourceLostError):
        take(source)


def test_it_is_opened_by_its_uri() -> None:
    text = f"gst:{camera(picture('NV12'))}"
    with opened(lambda: open_source(uri.parse(text))) as source:
        assert take(source, 2)[-1].format == "nv12"


def test_after_close_the_stream_has_ended() -> None:
    source = GStreamerSource(camera(picture("GRAY8")))
    source.close()
    source.close()
    with pytest.raises(EndOfStream):
        source.read(timeout_s=5.0)


AFTER_A_CAMERA = """
import sys
from pathlib import Path
from edgetrt.sources.gstreamer import GStreamerSource
from edgetrt.backends.openvino import OpenVinoBackend

camera = GStreamerSource("videotestsrc ! video/x-raw,format=RGB,width=64,height=48 ! appsink")
assert camera.read(20.0) is not None
camera.close()
OpenVinoBackend().load(Path(sys.argv[1])).close()
"""


def test_a_network_is_loaded_after_a_camera_was_opened() -> None:
    pytest.importorskip("openvino")
    model = ROOT / "engines/person/person.onnx"
    command = [sys.executable, "-c", AFTER_A_CAMERA, str(model)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
