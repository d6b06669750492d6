"""Annotated pictures in files."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from edgetrt.errors import SinkError
from edgetrt.sinks.image import ImageSink
from tests.sinks.results import make_result


def test_one_file_is_replaced_and_the_last_result_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.png"
    sink = ImageSink(path, every=10)
    for n in range(5):
        assert sink.put(make_result(n, (40 + n, 30)))
    with Image.open(path) as first:
        assert first.size == (40, 30)
    sink.close()
    with Image.open(path) as last:
        assert last.size == (44, 30)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_a_name_with_a_frame_in_it_is_a_file_for_each(tmp_path: Path) -> None:
    sink = ImageSink(tmp_path / "a{frame}.jpg", every=2)
    for n in range(5):
        sink.put(make_result(n))
    sink.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "a000000.jpg",
        "a000002.jpg",
        "a000004.jpg",
    ]


def test_a_folder_that_goes_away_costs_the_picture_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "new" / "a.png"
    sink = ImageSink(path, every=1)
    path.parent.rmdir()
    with caplog.at_level(logging.WARNING):
        assert [sink.put(make_result(n)) for n in range(3)] == [False] * 3
    assert len(caplog.records) == 1
    path.parent.mkdir()
    assert sink.put(make_result(4))
    sink.close()


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for name in ("a.gif", "file/a.png", "folder.png"):
        with pytest.raises(SinkError, match=str(tmp_path)) as caught:
            ImageSink(tmp_path / name)
        assert caught.value.hint
    with pytest.raises(SinkError, match="every"):
        ImageSink(tmp_path / "a.png", every=0)


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(SinkError, match=f"{blocked} is no folder"):
        ImageSink(blocked / "a.jpg")
