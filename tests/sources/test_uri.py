"""Sources as people write them."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetrt.errors import ConfigError
from edgetrt.sources.gstreamer import CsiSource, GStreamerSource, V4l2Source
from edgetrt.sources.images import ImageSource
from edgetrt.sources.rtsp import RtspSource
from edgetrt.sources.synthetic import SyntheticSource
from edgetrt.sources.uri import OPTIONS, SourceUri, parse, redact
from edgetrt.sources.video import VideoFileSource

CLASSES = {
    "file": VideoFileSource,
    "rtsp": RtspSource,
    "rtsps": RtspSource,
    "dir": ImageSource,
    "synthetic": SyntheticSource,
    "csi": CsiSource,
    "v4l2": V4l2Source,
    "gst": GStreamerSource,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clip.mp4", SourceUri("file", "clip.mp4")),
        ("clip.mp4?loop=1", SourceUri("file", "clip.mp4", {"loop": "1"})),
        ("file:clip.mp4", SourceUri("file", "clip.mp4")),
        ("FILE:clip.mp4", SourceUri("file", "clip.mp4")),
        ("file:///a%20b/c.mp4", SourceUri("file", "/a b/c.mp4")),
        ("file:a%20b.mp4", SourceUri("file", "a%20b.mp4")),
        ("file:clip.mp4?realtime=1", SourceUri("file", "clip.mp4", {"realtime": "1"})),
        ("pictures/*.png", SourceUri("dir", "pictures/*.png")),
        ("img?.png", SourceUri("dir", "img?.png")),
        ("img?.png?rate_hz=10", SourceUri("dir", "img?.png", {"rate_hz": "10"})),
        ("one.JPG", SourceUri("dir", "one.JPG")),
        ("dir:pictures?loop=1", SourceUri("dir", "pictures", {"loop": "1"})),
        ("synthetic:", SourceUri("synthetic", "640x480")),
        (
            "synthetic:1280x720?objects=5&seed=3&rate_hz=30&frames=100",
            SourceUri(
                "synthetic",
                "1280x720",
                {"objects": "5", "seed": "3", "rate_hz": "30", "frames": "100"},
            ),
        ),
        ("rtsp://cam/s", SourceUri("rtsp", "rtsp://cam/s")),
        ("rtsps://u:p@cam:322/s?ch=1&q=2", SourceUri("rtsps", "rtsps://u:p@cam:322/s?ch=1&q=2")),
        (
            "rtsp://cam/s?ch=1&rtsp_transport=udp&q=2",
            SourceUri("rtsp", "rtsp://cam/s?ch=1&q=2", {"rtsp_transport": "udp"}),
        ),
        ("rtsp://cam/s?timeout_s=2", SourceUri("rtsp", "rtsp://cam/s", {"timeout_s": "2"})),
    ],
)
def test_it_is_taken_apart(text: str, expected: SourceUri) -> None:
    assert parse(text) == expected


def test_what_exists_decides_for_a_bare_path(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "a:b.mp4").touch()
    (tmp_path / "odd?loop=1").touch()
    (tmp_path / "[1].mp4").touch()
    assert parse("clips", tmp_path).scheme == "dir"
    assert parse("a:b.mp4", tmp_path) == SourceUri("file", str(tmp_path / "a:b.mp4"))
    assert parse("odd?loop=1", tmp_path) == SourceUri("file", str(tmp_path / "odd?loop=1"))
    assert parse("[1].mp4", tmp_path) == SourceUri("file", str(tmp_path / "[1].mp4"))


def test_relative_paths_start_at_the_base(tmp_path: Path) -> None:
    assert parse("file:a.mp4", tmp_path).target == str(tmp_path / "a.mp4")
    assert parse("dir:a", tmp_path).target == str(tmp_path / "a")
    assert parse("/a.mp4", tmp_path).target == "/a.mp4"
    assert parse("~/a.mp4", tmp_path).target == str(Path.home() / "a.mp4")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("fiel:clip.mp4", "unknown scheme `fiel:`", "Did you mean `file:`? Known schemes: file:"),
        ("http://host/x", "unknown scheme `http:`", "Known schemes: file:, rtsp:"),
        ("sensor:temperature", "`sensor:` is reserved", "Use one of: file:"),
        ("csi:left", "expected a camera's number, got 'left'", "Write csi:0."),
        ("csi:0?format=nv12", "unknown option `format` for `csi:`", "width, height, fps"),
        ("v4l2:/dev/video0?format=h264", "`format`: expected yuyv, nv12, bgrx, gray or mjpeg", ""),
        ("gst: ", "no pipeline", "the last an appsink"),
        ("file:a.mp4?lop=1", "unknown option `lop` for `file:`", "Did you mean `loop`? Known"),
        ("a.mp4?lop=1", "unknown option `lop`", "Did you mean `loop`?"),
        ("dir:a?realtime=1", "unknown option `realtime`", "Known options: loop, rate_hz."),
        ("file:a?loop=maybe", "`loop`: expected 1 or 0, got 'maybe'", ""),
        ("file:a?loop=1&loop=0", "option `loop` is written twice", ""),
        ("dir:a?rate_hz=0", "`rate_hz`: expected a number above 0, got '0'", ""),
        ("dir:a?rate_hz=nan", "expected a number above 0", ""),
        ("synthetic:?frames=-1", "`frames`: expected a whole number from 0, got '-1'", ""),
        ("synthetic:big", "expected a picture size such as 640x480, got 'big'", ""),
        ("synthetic:0x4", "expected a picture size", ""),
        ("file:", "no path after `file:`", ""),
        ("", "empty", "file:"),
        ("rtsp:///x", "no host", "rtsp://user:password@host:554/path"),
        ("rtsp://u:secret@cam/x?rtsp_transport=ip", "expected tcp or udp, got 'ip'", ""),
    ],
)
def test_a_mistake_is_told(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("scheme", OPTIONS)
def test_options_are_the_keyword_arguments_of_the_class(scheme: str) -> None:
    parameters = inspect.signature(CLASSES[scheme]).parameters.values()
    keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert set(OPTIONS[scheme]) <= keywords


def test_arguments_are_typed() -> None:
    uri = parse("synthetic:64x48?objects=2&rate_hz=2.5")
    assert uri.arguments() == {"objects": 2, "rate_hz": 2.5}
    assert parse("file:a?loop=no&realtime=yes").arguments() == {"loop": False, "realtime": True}


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://u:secret@cam:554/s", "rtsp://u:***@cam:554/s"),
        ("rtsp://u:se@cr/et@cam/s", "rtsp://u:***@cam/s"),
        ("rtsp://cam/user=u&password=secret&ch=1", "rtsp://cam/user=u&password=***&ch=1"),
        ("rtsp://cam:554/s", "rtsp://cam:554/s"),
        ("rtsp://u@cam/s", "rtsp://u@cam/s"),
    ],
)
def test_passwords_are_not_shown(address: str, shown: str) -> None:
    assert redact(address) == shown
    assert str(parse(address)) == shown


@given(st.text())
def test_any_text_is_a_source_or_a_config_error(text: str) -> None:
    try:
        uri = parse(text)
    except ConfigError as error:
        assert error.message
    else:
        assert uri.scheme in OPTIONS


@given(
    st.sampled_from(["loop", "realtime"]),
    st.sampled_from("01"),
    st.from_regex(r"[a-z]{1,9}", fullmatch=True),
)
def test_what_is_written_is_read_again(option: str, value: str, name: str) -> None:
    uri = parse(f"file:/no-such-folder/{name}?{option}={value}")
    assert parse(str(uri)) == uri


@pytest.mark.parametrize(
    ("text", "target", "arguments"),
    [
        (
            "csi:0?width=1920&height=1080&fps=29.97",
            "0",
            {"width": 1920, "height": 1080, "fps": 29.97},
        ),
        ("csi:", "0", {}),
        ("v4l2:/dev/video2?format=mjpeg", "/dev/video2", {"format": "mjpeg"}),
        ("v4l2:", "/dev/video0", {}),
        (
            "gst:rtspsrc location=rtsp://h/p?a=b ! appsink",
            "rtspsrc location=rtsp://h/p?a=b ! appsink",
            {},
        ),
    ],
)
def test_cameras(text: str, target: str, arguments: dict[str, object]) -> None:
    uri = parse(text)
    assert uri.target == target
    assert uri.arguments() == arguments
    assert uri.live
    assert parse(uri.written()) == uri


def test_a_pipeline_s_password_is_not_shown() -> None:
    uri = parse("gst:rtspsrc location=rtsp://me:secret@host/p ! appsink")
    assert "secret" not in str(uri)
    assert "secret" in uri.written()


@pytest.mark.parametrize("text", ["http://admin:secret@cam/video", "rtps://admin:secret@cam/1"])
def test_a_password_is_in_no_message(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert "secret" not in caught.value.message + caught.value.hint
