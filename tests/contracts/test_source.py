"""What every source promises: the fake and each one that edgetrt has."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgetrt.ports import EndOfStream, Source
from edgetrt.sources.gstreamer import GStreamerSource
from edgetrt.sources.images import ImageSource
from edgetrt.sources.rtsp import RtspSource
from edgetrt.sources.synthetic import SyntheticSource
from edgetrt.sources.video import VideoFileSource
from edgetrt.types import Frame
from tests.fakes import FakeSource
from tests.sources.rtsp_server import RtspServer
from tests.sources.videos import make_video, picture

FRAMES = 6
ENDING = ["fake", "video", "images", "synthetic"]
LIVE = ["video-live", "images-live", "synthetic-live", "rtsp", "gstreamer"]
PICTURES = "video/x-raw,format=RGB,width=64,height=48,framerate=50/1"


def fake() -> FakeSource:
    return FakeSource([Frame(picture(n), "rgb", n, 1_000 + n) for n in range(FRAMES)])


def folder(path: Path) -> Path:
    for n in range(FRAMES):
        Image.fromarray(picture(n)).save(path / f"{n}.png")
    return path


def maker(kind: str, path: Path) -> Callable[[], Source]:
    makers: dict[str, Callable[[], Source]] = {
        "fake": fake,
        "video": lambda: VideoFileSource(make_video(path / "a.mp4", FRAMES)),
        "video-live": lambda: VideoFileSource(make_video(path / "a.mp4", FRAMES), rate_hz=50),
        "images": lambda: ImageSource(folder(path)),
        "images-live": lambda: ImageSource(folder(path), rate_hz=50),
        "synthetic": lambda: SyntheticSource((64, 48), objects=2, frames=FRAMES),
        "synthetic-live": lambda: SyntheticSource((64, 48), frames=FRAMES, rate_hz=50),
        "gstreamer": lambda: GStreamerSource(f"videotestsrc is-live=true ! {PICTURES} ! appsink"),
    }
    return makers[kind]


@pytest.fixture(params=ENDING + LIVE)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    if request.param == "rtsp":
        with RtspServer() as server:
            stream = RtspSource(server.url, timeout_s=2.0)
            yield stream
            stream.close()
        return
    if request.param == "gstreamer":
        pytest.importorskip("gi")
    opened = maker(request.param, tmp_path)()
    yield opened
    opened.close()


@pytest.fixture(params=ENDING)
def ending(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    opened = maker(request.param, tmp_path)()
    yield opened
    opened.close()


def take(source: Source, count: int) -> list[Frame]:
    """So many frames, waiting at most some seconds for each."""
    frames: list[Frame] = []
    for _ in range(count * 20):
        frame = source.read(timeout_s=0.5)
        if frame is not None:
            frames.append(frame)
        if len(frames) == count:
            return frames
    raise AssertionError(f"only {len(frames)} of {count} frames came")


def test_frames_are_rgb_bytes_in_order_of_capture(source: Source) -> None:
    frames = take(source, 3)
    for frame in frames:
        assert frame.format == "rgb"
        assert frame.data.shape == (48, 64, 3)
        assert frame.data.dtype == np.uint8
        assert frame.data.flags.c_contiguous
    assert [frame.seq for frame in frames] == sorted({frame.seq for frame in frames})
    assert [frame.captured_ns for frame in frames] == sorted(frame.captured_ns for frame in frames)
    assert source.reconnects == 0


def test_a_frame_is_never_written_to_again(source: Source) -> None:
    first = take(source, 1)[0]
    copy = first.data.copy()
    take(source, 4)
    np.testing.assert_array_equal(first.data, copy)


def test_after_close_the_stream_has_ended(source: Source) -> None:
    take(source, 1)
    source.close()
    source.close()
    with pytest.raises(EndOfStream):
        source.read(timeout_s=5.0)


def test_close_from_another_thread_ends_the_reader(source: Source) -> None:
    take(source, 1)
    ended = threading.Event()

    def drain() -> None:
        try:
            while True:
                source.read(timeout_s=0.5)
        except EndOfStream:
            ended.set()

    thread = threading.Thread(target=drain)
    thread.start()
    source.close()
    thread.join(timeout=20)
    assert ended.is_set()


def test_a_file_gives_every_frame_and_then_ends(ending: Source) -> None:
    assert not ending.live
    frames = take(ending, FRAMES)
    assert [frame.seq for frame in frames] == list(range(FRAMES))
    for _ in range(2):
        with pytest.raises(EndOfStream):
            ending.read(timeout_s=0.1)


@pytest.mark.parametrize("kind", ["video-live", "images-live", "synthetic-live"])
def test_what_keeps_time_is_live_and_has_no_frame_before_its_time(
    kind: str, tmp_path: Path
) -> None:
    slow: dict[str, Callable[[], Source]] = {
        "video-live": lambda: VideoFileSource(make_video(tmp_path / "a.mp4"), rate_hz=0.01),
        "images-live": lambda: ImageSource(folder(tmp_path), rate_hz=0.01),
        "synthetic-live": lambda: SyntheticSource(rate_hz=0.01),
    }
    source = slow[kind]()
    assert source.live
    assert source.read(timeout_s=0.0) is not None
    assert source.read(timeout_s=0.01) is None
    assert source.read(timeout_s=0.0) is None
    source.close()
