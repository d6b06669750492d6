"""Video files, whole and damaged."""

from __future__ import annotations

import os
import random
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from edgetrt.errors import SourceError
from edgetrt.ports import EndOfStream
from edgetrt.sources.video import VideoFileSource
from edgetrt.types import Frame
from tests.sources.videos import make_sound, make_video, picture


def read_all(source: VideoFileSource) -> list[Frame]:
    frames: list[Frame] = []
    try:
        while True:
            frame = source.read(timeout_s=1.0)
            assert frame is not None
            frames.append(frame)
    except EndOfStream:
        return frames
    finally:
        source.close()


@pytest.mark.parametrize(("ending", "codec"), [("mp4", "libx264"), ("avi", "mjpeg")])
def test_pictures_come_as_they_were_recorded(tmp_path: Path, ending: str, codec: str) -> None:
    source = VideoFileSource(make_video(tmp_path / f"a.{ending}", 8, codec=codec))
    assert source.rate_hz == 10
    frames = read_all(source)
    assert len(frames) == 8
    assert source.corrupt == 0
    for n, frame in enumerate(frames):
        error = np.abs(frame.data.astype(int) - picture(n)).mean()
        assert error < 6, f"frame {n} is off by {error}"


def test_a_loop_begins_again_and_counts_on(tmp_path: Path) -> None:
    source = VideoFileSource(make_video(tmp_path / "a.mp4", 3), loop=True)
    frames = [source.read(1.0) for _ in range(8)]
    source.close()
    assert [frame.seq for frame in frames if frame] == list(range(8))
    np.testing.assert_array_equal(frames[1].data, frames[7].data)  # type: ignore[union-attr]


def test_realtime_takes_the_rate_of_the_file(tmp_path: Path) -> None:
    source = VideoFileSource(make_video(tmp_path / "a.mp4", rate_hz=1), realtime=True)
    assert source.live
    assert source.read(0.0) is not None
    assert source.read(0.0) is None
    source.close()


def test_damage_in_the_middle_is_skipped_and_counted(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.avi", 60, codec="mjpeg")
    data = bytearray(path.read_bytes())
    dice = random.Random(1)
    for _ in range(40):
        data[dice.randrange(len(data) // 3, len(data) * 2 // 3)] ^= 1 << dice.randrange(8)
    path.write_bytes(data)
    source = VideoFileSource(path)
    frames = read_all(source)
    assert source.corrupt > 0
    assert 40 <= len(frames) < 60
    last = np.abs(frames[-1].data.astype(int) - picture(59)).mean()
    assert last < 6, "decoding did not go on behind the damage"


def test_h264_goes_on_behind_lost_packets(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.ts", 60, options={"g": "10"})
    data = path.read_bytes()
    third = len(data) // 3 // 188 * 188
    path.write_bytes(data[:third] + data[2 * third :])  # a third of the transport packets
    frames = read_all(VideoFileSource(path))
    assert 20 <= len(frames) < 60
    assert np.abs(frames[-1].data.astype(int) - picture(59)).mean() < 6


def test_a_file_that_was_cut_off_ends_early(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.avi", 60, codec="mjpeg")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert 15 <= len(read_all(VideoFileSource(path))) <= 30


def test_a_size_that_changes_gives_frames_of_the_new_size(tmp_path: Path) -> None:
    small = make_video(tmp_path / "small.h264", 6)
    large = make_video(tmp_path / "large.h264", 6, size=(96, 80))
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    frames = read_all(VideoFileSource(both))
    assert [frame.size for frame in frames] == [(64, 48)] * 6 + [(96, 80)] * 6


@pytest.mark.parametrize("name", ["a:b.mp4", "http:x.mp4", "a b%20ü.mp4", "-i.mp4", "[1]*.mp4"])
def test_odd_names_are_names(tmp_path: Path, name: str) -> None:
    plain = make_video(tmp_path / "plain.mp4", 2)
    assert len(read_all(VideoFileSource(plain.rename(tmp_path / name)))) == 2


def test_a_title_in_no_known_encoding_is_no_hindrance(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mkv", 2, title="ZZZZ")
    data = path.read_bytes()
    assert data.count(b"ZZZZ") == 1
    path.write_bytes(data.replace(b"ZZZZ", b"\xff\xfeZ\xe4"))
    assert len(read_all(VideoFileSource(path))) == 2


def test_a_picture_recorded_on_its_side_stands_upright(tmp_path: Path) -> None:
    import av

    if not hasattr(av.VideoFrame, "rotation"):
        pytest.skip("this PyAV does not tell the rotation")
    path = make_video(tmp_path / "a.mp4", 1)
    data = path.read_bytes()
    one, zero = 0x10000, 0
    straight = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 0x40000000)
    clockwise = struct.pack(">9i", zero, one, 0, -one, zero, 0, 48 * one, 0, 0x40000000)
    header = data.index(b"tkhd")
    at = data.index(straight, header)
    path.write_bytes(data[:at] + clockwise + data[at + len(straight) :])
    frame = read_all(VideoFileSource(path))[0]
    assert frame.size == (48, 64)
    expected = np.rot90(picture(0), -1)  # the display matrix says: turn clockwise to show
    assert np.abs(frame.data.astype(int) - expected).mean() < 6


def missing(path: Path) -> Path:
    return path / "none.mp4"


def empty(path: Path) -> Path:
    (path / "empty.mp4").touch()
    return path / "empty.mp4"


def text(path: Path) -> Path:
    (path / "text.mp4").write_text("not a video " * 100)
    return path / "text.mp4"


def sound(path: Path) -> Path:
    return make_sound(path / "sound.wav")


def headless(path: Path) -> Path:
    whole = make_video(path / "a.mp4", 30)
    whole.write_bytes(whole.read_bytes()[:600])
    return whole


def a_folder(path: Path) -> Path:
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "no such file"),
        (empty, "is empty"),
        (text, "not a video"),
        (sound, "has no video stream"),
        (headless, "not a video, or damaged at its beginning or cut off"),
        (a_folder, "is a folder"),
    ],
)
def test_what_is_no_video_is_told(tmp_path: Path, make: object, message: str) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    with pytest.raises(SourceError) as caught:
        VideoFileSource(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("loop", [False, True])
def test_a_video_without_one_whole_picture_is_an_error(tmp_path: Path, loop: bool) -> None:
    path = make_video(tmp_path / "a.avi", 5, codec="mjpeg")
    data = bytearray(path.read_bytes())
    at = data.index(b"00dc", data.index(b"movi"))
    while (
        data[at : at + 4] == b"00dc"
    ):  # RIFF: a name, a length, a picture, padded to an even length
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        data[at + 8 : at + 8 + length] = bytes(length)
        at += 8 + length + length % 2
    path.write_bytes(data)
    source = VideoFileSource(path, loop=loop)
    with pytest.raises(SourceError, match="no frame could be decoded"):
        source.read(1.0)
    assert source.corrupt > 0
    source.close()


def test_a_named_pipe_is_waited_for_and_read_once_somebody_writes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    video, pipe = make_video(tmp_path / "a.avi", 4, codec="mjpeg"), tmp_path / "pipe"
    os.mkfifo(pipe)
    source = VideoFileSource(pipe)
    assert source.read(0.01) is None
    assert source.rate_hz is None
    os.close(os.open(pipe, os.O_WRONLY))
    assert source.read(0.01) is None, "somebody who writes nothing is not waited on for ever"
    assert [record.message for record in caplog.records] == [
        f"{pipe}: a named pipe: waiting for somebody to write to it"
    ]

    writer = threading.Thread(target=lambda: pipe.write_bytes(video.read_bytes()))
    writer.start()
    while (first := source.read(1.0)) is None:
        pass
    assert [first.seq, *(frame.seq for frame in read_all(source))] == [0, 1, 2, 3]
    writer.join()


def test_a_named_pipe_that_nobody_writes_to_can_be_closed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    source = VideoFileSource(tmp_path / "pipe")
    source.close()
    source.close()
    with pytest.raises(EndOfStream):
        source.read(0.01)


def test_a_writer_that_has_gone_already_is_not_waited_for(tmp_path: Path) -> None:
    video, pipe = make_video(tmp_path / "small.avi", 4, codec="mjpeg"), tmp_path / "pipe"
    os.mkfifo(pipe)
    source = VideoFileSource(pipe)
    assert video.stat().st_size < 60_000, "it must fit into the pipe"
    writer = os.open(pipe, os.O_WRONLY)
    os.write(writer, video.read_bytes())
    os.close(writer)
    assert [frame.seq for frame in read_all(source)] == [0, 1, 2, 3]
    with pytest.raises(EndOfStream):
        source.read(0.01)
    source.close()
