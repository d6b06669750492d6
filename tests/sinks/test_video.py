"""Annotated videos."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from edgetrt.errors import SinkError
from edgetrt.ports import EndOfStream
from edgetrt.sinks.video import QUEUE, VideoSink
from edgetrt.sources.video import VideoFileSource
from edgetrt.types import Frame
from tests.cli.command import ROOT
from tests.sinks.results import make_result


def read_all(path: Path) -> list[Frame]:
    source = VideoFileSource(path)
    frames: list[Frame] = []
    try:
        while True:
            frames.append(source.read(1.0))  # type: ignore[arg-type]
    except EndOfStream:
        return frames
    finally:
        source.close()


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_every_result_is_a_frame_with_its_boxes(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new" / f"a.{ending}"
    sink = VideoSink(path, fps=5, block=True)
    assert all(sink.put(make_result(n, (96, 64))) for n in range(30))
    sink.close()
    frames = read_all(path)
    assert len(frames) == 30
    assert frames[0].size == (96, 64)
    green = frames[-1].data[:, :, 1].astype(int) - frames[-1].data[:, :, 0]
    assert green.max() > 60, "no box is drawn"
    source = VideoFileSource(path)
    assert source.rate_hz == 5
    source.close()


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize(
    ("said_hz", "numbers", "plays_s"),
    [
        (25.0, range(50), 2.0),
        (30000 / 1001, range(30), 1.0),
        (20.0, range(0, 40, 4), 2.0),  # three of four were left out
        (20.0, [*range(20), *range(20)], 2.0),  # opened again in the middle
        (None, range(20), 2.0),
        (90000.0, range(20), 2.0),
    ],
)
def test_it_plays_as_fast_as_the_source_said(
    tmp_path: Path, ending: str, said_hz: float | None, numbers: Sequence[int], plays_s: float
) -> None:
    path = tmp_path / f"a.{ending}"
    sink = VideoSink(path, block=True)
    for number in numbers:
        assert sink.put(make_result(number, rate_hz=said_hz))
    sink.close()
    with av.open(str(path)) as video:
        shown = [packet.pts * packet.time_base for packet in video.demux(video=0) if packet.size]
    # How long the last frame stays is not written everywhere.
    assert float(max(shown) - min(shown)) == pytest.approx(plays_s, rel=0.2)


def test_other_sizes_are_scaled_to_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    sink = VideoSink(path, block=True)
    for n, size in enumerate([(65, 49), (64, 48), (200, 100), (31, 90), (1, 1)]):
        assert sink.put(make_result(n, size, boxes=()))
    sink.close()
    assert [frame.size for frame in read_all(path)] == [(64, 48)] * 5


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5)])
def test_tiny_frames_are_no_failure(tmp_path: Path, size: tuple[int, int]) -> None:
    sink = VideoSink(tmp_path / "a.mkv", block=True)
    sink.put(make_result(0, size, boxes=()))
    sink.close()
    assert read_all(tmp_path / "a.mkv")[0].size == (max(2, size[0] & ~1), max(2, size[1] & ~1))


def test_a_camera_does_not_wait_for_the_encoder(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "a.mkv")
    taken = sum(sink.put(make_result(n, (640, 480))) for n in range(400))
    sink.close()
    assert QUEUE <= taken < 400
    assert len(read_all(tmp_path / "a.mkv")) == taken


def test_an_unfinished_mp4_plays(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    sink = VideoSink(path, fps=5, block=True)
    noise = np.random.default_rng(0)
    for n in range(80):
        result = make_result(n, (160, 120))
        result.frame.data[...] = noise.integers(0, 255, result.frame.data.shape, np.uint8)
        sink.put(result)
    pulled = tmp_path / "pulled.mp4"
    shutil.copy(path, pulled)
    sink.close()
    assert len(read_all(path)) == 80
    assert 10 <= len(read_all(pulled)) <= 80


def test_a_failure_while_writing_is_told_once_and_holds_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "new" / "a.mp4"
    sink = VideoSink(path, block=True)
    path.parent.rmdir()
    with caplog.at_level(logging.WARNING):
        taken = [sink.put(make_result(n)) for n in range(200)]
        sink.close()
    assert not sink.put(make_result(0))
    assert not all(taken)
    assert sink.lost > taken.count(False), "those that waited for the encoder went with it"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_no_result_is_no_file(tmp_path: Path) -> None:
    VideoSink(tmp_path / "a.mp4").close()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    for name in ("a.gif", "a", "file/a.mp4", "folder.mp4"):
        with pytest.raises(SinkError, match=str(tmp_path)) as caught:
            VideoSink(tmp_path / name)
        assert caught.value.hint
    with pytest.raises(SinkError, match="fps above 0"):
        VideoSink(tmp_path / "a.mp4", fps=0)


FULL = """
import resource, signal, sys
from pathlib import Path
from edgetrt.sinks.video import VideoSink
from tests.sinks.results import make_result

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sink = VideoSink(Path(sys.argv[1]), block=True)
assert all(sink.put(make_result(n)) for n in range(5))
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
sink.close()
print("lost", sink.lost)
"""


def test_a_disk_that_is_full_at_the_last_write_holds_nobody_up(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "a.mp4")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.startswith("lost "), done.stderr
    assert "the video ends here" in done.stderr
