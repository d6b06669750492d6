"""A CSI camera whose pictures stay in NVMM, through stand-ins for a Jetson's elements and library."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from edgetrt.app.pipelines import open_source
from edgetrt.errors import SourceError, SourceLostError
from edgetrt.ports import Source
from edgetrt.sources import uri
from edgetrt.sources.gstreamer import BUFFERS, CsiSource, GStreamerSource
from edgetrt.sources.gstreamer_library import gst
from edgetrt.sources.surfaces import NvmmSurface
from edgetrt.types import Frame
from tests.standins import csi, nvmm
from tests.standins.nvmm import Buffer, Nvmm

try:
    gst()
except SourceError as error:
    pytest.skip(error.message, allow_module_level=True)

WAIT_S = 0.25


@pytest.fixture
def camera() -> Iterator[Nvmm]:
    made = nvmm.loaded()
    made.reset()
    yield made
    assert made.counts() == {}


@pytest.fixture
def jetson(camera: Nvmm, request: pytest.FixtureRequest) -> Iterator[csi.Jetson]:
    def paint(buffer: Buffer, number: int) -> None:
        buffer.fill(np.full((57, 66), number % 250, np.uint8))

    made = csi.Jetson()
    made.old = getattr(request, "param", False)
    made.make = lambda block_linear: camera.make(*csi.SIZE, layout=int(block_linear))
    made.paint = paint
    with csi.elements(made):
        yield made
    for buffer in made.buffers:
        buffer.free()


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
        frame = source.read(WAIT_S)
        frames += [frame] if frame is not None else []
        if len(frames) == count:
            return frames
    raise AssertionError(f"only {len(frames)} of {count} frames came")


def test_pictures_stay_where_the_camera_wrote_them(jetson: csi.Jetson) -> None:
    with opened(CsiSource) as source:
        for _ in range(2 * BUFFERS):
            (frame,) = take(source)
            assert isinstance(frame.pixels, NvmmSurface)
            assert (frame.format, frame.size, frame.rate_hz) == ("nv12", csi.SIZE, 100.0)
            assert (frame.data == frame.seq % 250).all()
    assert all(buffer.untouched for buffer in jetson.buffers)


def test_a_picture_that_somebody_keeps_is_never_written_to(jetson: csi.Jetson) -> None:
    with opened(CsiSource) as source:
        held = take(source, 3)
        for _ in range(2 * BUFFERS):
            take(source)
        for frame in held:
            assert (frame.data == frame.seq % 250).all()


def test_with_every_buffer_away_the_camera_waits_and_goes_on(jetson: csi.Jetson) -> None:
    with opened(lambda: CsiSource(timeout_s=30.0)) as source:
        held: list[Frame] = []
        for _ in range(5 * BUFFERS):
            frame = source.read(WAIT_S)
            if frame is None:
                break
            held.append(frame)
        else:
            raise AssertionError("a camera with more buffers than it was asked for")
        memories = {frame.pixels.memory for frame in held if isinstance(frame.pixels, NvmmSurface)}
        assert len(memories) == len(held)
        kept = [frame.kept() for frame in held]
        held.clear()
        del frame
        assert take(source)[0].seq > kept[-1].seq
        assert all((frame.data == frame.seq % 250).all() for frame in kept)


@pytest.mark.parametrize("call", ["NvBufSurfaceMap", "NvBufSurfaceSyncForCpu"])
def test_where_the_first_picture_cannot_be_read_each_is_copied(
    camera: Nvmm, jetson: csi.Jetson, caplog: Any, call: str
) -> None:
    camera.refuse(call)
    with caplog.at_level(logging.WARNING), opened(CsiSource) as source:
        frames = take(source, 3)
    assert all(isinstance(frame.pixels, np.ndarray) for frame in frames)
    assert all((frame.data[:38] == 1).all() for frame in frames)
    (told,) = caplog.messages
    assert told == f"csi:0: the CPU copies each picture: csi:0: {call} failed"


@pytest.mark.parametrize("jetson", [True], indirect=True, ids=["old"])
def test_a_converter_that_knows_no_rows_copies(jetson: csi.Jetson, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING), opened(CsiSource) as source:
        assert isinstance(take(source)[0].pixels, np.ndarray)
    assert "bl-output" in caplog.text


def test_it_is_decided_once(camera: Nvmm, jetson: csi.Jetson) -> None:
    jetson.pictures = 4
    camera.refuse("NvBufSurfaceMap")
    with opened(CsiSource) as source:
        camera.refuse("")
        frames = take(source, 10)
        assert all(isinstance(frame.pixels, np.ndarray) for frame in frames)


def test_a_camera_that_was_opened_anew_says_so_of_its_pictures(jetson: csi.Jetson) -> None:
    with opened(CsiSource) as source:
        first = take(source)[0].pixels
        assert isinstance(first, NvmmSurface)
        source._stop()  # type: ignore[attr-defined]
        source._open()  # type: ignore[attr-defined]
        later = take(source)[0].pixels
        assert isinstance(later, NvmmSurface)
        assert later.stream is not first.stream
        again = take(source)[0].pixels
        assert isinstance(again, NvmmSurface)
        assert again.stream is later.stream


def test_a_picture_outlives_its_camera(jetson: csi.Jetson) -> None:
    with opened(CsiSource) as source:
        (frame,) = take(source)
    assert (frame.data == frame.seq % 250).all()


def test_it_can_be_switched_off(jetson: csi.Jetson, caplog: Any) -> None:
    with caplog.at_level(logging.INFO):
        source = open_source(uri.parse("csi:0?nvmm=0"))
        with opened(lambda: source):
            assert isinstance(take(source)[0].pixels, np.ndarray)
    assert caplog.messages == []
    assert jetson.buffers == []


NVMM = "! video/x-raw(memory:NVMM),format=NV12 ! appsink"


def test_a_pipeline_of_one_s_own_may_end_in_nvmm(jetson: csi.Jetson) -> None:
    text = f"nvarguscamerasrc ! nvvidconv bl-output=false {NVMM}"
    with opened(lambda: GStreamerSource(text)) as source:
        assert isinstance(take(source)[0].pixels, NvmmSurface)


def test_one_that_ends_block_linear_is_refused(jetson: csi.Jetson) -> None:
    text = f"nvarguscamerasrc ! nvvidconv {NVMM}"
    with opened(lambda: GStreamerSource(text)) as source:
        with pytest.raises(SourceLostError, match="block-linear") as caught:
            take(source)
        assert "bl-output=false" in caught.value.hint


def test_no_camera_is_told_as_before(jetson: csi.Jetson) -> None:
    jetson.pictures = 0
    with pytest.raises(SourceError, match="ended before its first picture"):
        CsiSource(timeout_s=20.0)


def test_without_the_library_it_is_copied_and_said_once() -> None:
    """In a process of its own: here the stand-in is loaded for good."""
    code = (
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "from edgetrt.sources.gstreamer import CsiSource\n"
        "try: CsiSource('3')\n"
        "except Exception as error: print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert 'no element "nvarguscamerasrc"' in done.stdout
    assert "csi:3: the CPU copies each picture: NVMM memory cannot be read" in done.stderr
