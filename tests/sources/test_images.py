"""Pictures of every kind that people have."""

from __future__ import annotations

import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgetrt.errors import SourceError
from edgetrt.ports import EndOfStream
from edgetrt.sources.images import ImageSource, load_rgb, natural_key
from edgetrt.types import Frame


def save(path: Path, values: object, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(np.array(values, np.uint8))
    (image.convert(mode) if mode else image).save(path, **options)  # type: ignore[arg-type]
    return path


def read_all(source: ImageSource) -> list[Frame]:
    frames: list[Frame] = []
    try:
        while True:
            frame = source.read(timeout_s=1.0)
            assert frame is not None
            frames.append(frame)
    except EndOfStream:
        return frames


RED = np.full((4, 6, 3), (204, 0, 51), np.uint8)  # a colour of the web palette


def test_a_folder_comes_in_natural_order(tmp_path: Path) -> None:
    for n in (10, 2, 1, 30):
        save(tmp_path / f"frame{n}.png", np.full((2, 2, 3), n))
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    assert [frame.data[0, 0, 0] for frame in read_all(ImageSource(tmp_path))] == [1, 2, 10, 30]
    globbed = read_all(ImageSource(tmp_path / "frame?.png"))
    assert [frame.data[0, 0, 0] for frame in globbed] == [1, 2]
    assert len(read_all(ImageSource(tmp_path / "frame30.png"))) == 1


def test_a_loop_begins_again(tmp_path: Path) -> None:
    save(tmp_path / "1.png", RED)
    save(tmp_path / "2.png", RED)
    source = ImageSource(tmp_path, loop=True)
    assert [source.read(1.0).seq for _ in range(5)] == [0, 1, 2, 3, 4]  # type: ignore[union-attr]


def test_exif_turns_the_picture_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to show
    lying = np.zeros((8, 16, 3), np.uint8)
    lying[:, :8] = 255
    path = save(tmp_path / "a.png", lying, exif=exif)
    data = load_rgb(path)
    assert data.shape == (16, 8, 3)
    assert data[:8].min() == 255
    assert data[8:].max() == 0


def test_palette_alpha_grey_and_cmyk_become_rgb(tmp_path: Path) -> None:
    np.testing.assert_array_equal(load_rgb(save(tmp_path / "p.gif", RED, "P")), RED)
    np.testing.assert_array_equal(load_rgb(save(tmp_path / "p.png", RED, "P")), RED)
    grey = load_rgb(save(tmp_path / "l.png", RED[:, :, 0]))
    np.testing.assert_array_equal(grey, np.full_like(RED, 204))
    bilevel = load_rgb(save(tmp_path / "1.png", RED[:, :, 0], "1"))
    assert set(np.unique(bilevel)) <= {0, 255}
    cmyk = load_rgb(save(tmp_path / "c.jpg", RED, "CMYK", quality=95))
    assert np.abs(cmyk.astype(int) - RED).max() < 12


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    rgba = np.dstack([RED, np.full((4, 6), 255, np.uint8)])
    rgba[:, 3:, 3] = 0
    data = load_rgb(save(tmp_path / "a.png", rgba))
    np.testing.assert_array_equal(data[:, :3], RED[:, :3])
    np.testing.assert_array_equal(data[:, 3:], np.full((4, 3, 3), 255))
    palette = Image.fromarray(RED).convert("P")
    palette.save(tmp_path / "b.png", transparency=palette.getpixel((0, 0)))
    assert load_rgb(tmp_path / "b.png").min() == 255


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_deep_grey_keeps_its_upper_byte(tmp_path: Path, ending: str) -> None:
    values = np.array([[0, 256, 32768, 65535]], np.uint16)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(values).save(path)
    np.testing.assert_array_equal(load_rgb(path)[0, :, 1], [0, 1, 128, 255])


def test_deep_grey_that_is_dark_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 100, 200, 255]], np.uint16)).save(tmp_path / "a.png")
    assert load_rgb(tmp_path / "a.png").max() == 0


def test_float_grey_is_shown_in_its_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0, np.nan]], np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(load_rgb(tmp_path / "a.tif")[0, :, 0], [0, 127, 255, 0])


def test_what_is_unreadable_is_skipped_counted_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = save(tmp_path / "1.png", np.random.default_rng(0).integers(0, 256, (50, 50, 3)))
    (tmp_path / "2.png").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "3.jpg").write_text("no picture")
    (tmp_path / "4.png").touch()
    save(tmp_path / "5.png", RED)
    source = ImageSource(tmp_path, loop=True)
    with caplog.at_level(logging.WARNING):
        frames = [source.read(1.0) for _ in range(5)]
    assert [frame.size for frame in frames if frame][:3] == [(50, 50), (6, 4), (50, 50)]
    assert source.unreadable == 3
    assert sum("skipped" in record.message for record in caplog.records) == 3


@pytest.mark.parametrize("loop", [False, True])
def test_nothing_readable_is_an_error(tmp_path: Path, loop: bool) -> None:
    (tmp_path / "1.png").write_text("no picture")
    (tmp_path / "2.png").touch()
    with pytest.raises(SourceError, match=r"none of its 2 pictures can be read; last: .*2\.png"):
        ImageSource(tmp_path, loop=loop).read(1.0)


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file or folder"):
        ImageSource(tmp_path / "none")
    with pytest.raises(SourceError, match="no picture found") as caught:
        ImageSource(tmp_path)
    assert ".png" in caught.value.hint
    with pytest.raises(SourceError, match="no picture found"):
        ImageSource(tmp_path / "*.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path, side: int) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    )
    with pytest.raises(SourceError, match="refused as too large"):
        load_rgb(path)


@given(st.binary(max_size=300), st.sampled_from(["png", "jpg", "tif", "gif", "bmp", "webp"]))
def test_any_bytes_are_a_picture_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, ending: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.{ending}"
    Image.new("RGB", (8, 8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + tail)
    try:
        assert load_rgb(path).ndim == 3
    except SourceError as error:
        assert str(path) in error.message


@given(st.lists(st.integers(0, 10**9), min_size=1))
def test_numbers_in_names_sort_by_value(numbers: list[int]) -> None:
    names = [f"a{n}.png" for n in numbers]
    assert sorted(names, key=natural_key) == [f"a{n}.png" for n in sorted(numbers)]
