from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetrt.config import PreprocessConfig
from edgetrt.errors import ConfigError, ModelError
from edgetrt.geometry import fit
from edgetrt.runtime import imaging
from edgetrt.runtime.preprocess import Preprocessor
from edgetrt.types import Frame, TensorSpec


def frame(data: NDArray[np.uint8], form: str = "rgb") -> Frame:
    return Frame(data, form, seq=0, captured_ns=0)  # type: ignore[arg-type]


def sampled(source: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Bilinear by the definition, pixel by pixel: centres at +0.5, edges repeated."""
    out = np.zeros((height, width, 3))
    rows, columns = source.shape[:2]
    for y, x in product(range(height), range(width)):
        v = (y + 0.5) * rows / height - 0.5
        u = (x + 0.5) * columns / width - 0.5
        top, left = int(np.floor(v)), int(np.floor(u))
        for dy, dx in product((0, 1), (0, 1)):
            weight = (v - top if dy else 1 - v + top) * (u - left if dx else 1 - u + left)
            row, column = np.clip(top + dy, 0, rows - 1), np.clip(left + dx, 0, columns - 1)
            out[y, x] += weight * source[row, column]
    return out


def expected(
    data: NDArray[np.uint8], spec: TensorSpec, config: PreprocessConfig, form: str
) -> NDArray[np.float64]:
    """The whole preprocessing, slow and obvious."""
    planar = spec.shape[1] == 3
    height, width = spec.shape[2:] if planar else spec.shape[1:3]
    pixels = data.astype(np.float64)
    if form == "gray":
        pixels = np.stack([pixels] * 3, axis=2)
    elif form != config.color:
        pixels = pixels[:, :, ::-1]
    placed = fit((data.shape[1], data.shape[0]), (width, height), config.resize)
    take, put = placed.take, placed.put
    canvas = np.full((height, width, 3), float(config.pad))
    canvas[put.top : put.top + put.height, put.left : put.left + put.width] = sampled(
        pixels[take.top : take.top + take.height, take.left : take.left + take.width],
        put.height,
        put.width,
    )
    scaled = (canvas * config.scale - np.array(config.mean)) / np.array(config.std)
    return (scaled.transpose(2, 0, 1) if planar else scaled)[None]


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(4, 24), st.integers(4, 24)),
    into=st.tuples(st.integers(4, 20), st.integers(4, 20)),
    resize=st.sampled_from(["letterbox", "stretch", "crop"]),
    form=st.sampled_from(["rgb", "bgr", "gray"]),
    color=st.sampled_from(["rgb", "bgr"]),
    planar=st.booleans(),
    shifted=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_the_slow_reference(
    size: tuple[int, int],
    into: tuple[int, int],
    resize: str,
    form: str,
    color: str,
    planar: bool,
    shifted: bool,
    seed: int,
) -> None:
    if imaging.resizer() != "opencv":
        pytest.skip("Pillow averages when it shrinks; see test_pillow_agrees_on_smooth_pictures")
    shape = (size[1], size[0]) if form == "gray" else (size[1], size[0], 3)
    data = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    config = PreprocessConfig(
        resize=resize,  # type: ignore[arg-type]
        color=color,  # type: ignore[arg-type]
        mean=(0.4, 0.5, 0.6) if shifted else (0.0, 0.0, 0.0),
        std=(0.2, 0.3, 0.25) if shifted else (1.0, 1.0, 1.0),
        layout="nchw" if planar else "nhwc",
    )
    width, height = into
    spec = TensorSpec("x", (1, 3, height, width) if planar else (1, height, width, 3), "float32")
    buffer = np.zeros(spec.shape, np.float32)
    Preprocessor(spec, buffer, config).write(frame(data, form))
    tolerance = 1.5 / 255 / min(config.std)  # OpenCV rounds each pass to an integer
    assert np.abs(buffer - expected(data, spec, config, form)).max() <= tolerance


def test_pillow_agrees_on_smooth_pictures() -> None:
    ramp = np.add.outer(np.arange(60), np.arange(80)).astype(np.uint8)
    source = np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=2)
    here, pillow = np.zeros((30, 40, 3), np.uint8), np.zeros((30, 40, 3), np.uint8)
    imaging.resize(source, here)
    imaging.resize_with_pillow(source, pillow)
    assert np.abs(here[1:-1, 1:-1].astype(int) - pillow[1:-1, 1:-1]).max() <= 1


def test_half_and_integer_inputs_take_the_same_pixels() -> None:
    data = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    buffers = {}
    for kind in ("float32", "float16", "uint8"):
        spec = TensorSpec("x", (1, 3, 12, 16), kind)
        buffers[kind] = np.zeros(spec.shape, kind)
        Preprocessor(spec, buffers[kind], PreprocessConfig()).write(frame(data))
    assert (buffers["uint8"][0] == data.transpose(2, 0, 1)).all()
    assert np.abs(buffers["float16"].astype(np.float32) - buffers["float32"]).max() < 1e-3


def test_frames_of_another_size_get_fresh_padding() -> None:
    spec = TensorSpec("x", (1, 3, 8, 8), "uint8")
    buffer = np.zeros(spec.shape, np.uint8)
    preprocessor = Preprocessor(spec, buffer, PreprocessConfig(pad=7))
    preprocessor.write(frame(np.full((16, 8, 3), 200, np.uint8)))
    preprocessor.write(frame(np.full((8, 16, 3), 100, np.uint8)))
    assert (buffer[0, :, :2] == 7).all()
    assert (buffer[0, :, 2:6] == 100).all()
    assert (buffer[0, :, 6:] == 7).all()


@given(
    size=st.tuples(st.integers(8, 4000), st.integers(8, 4000)),
    into=st.tuples(st.integers(8, 1280), st.integers(8, 1280)),
    resize=st.sampled_from(["letterbox", "stretch"]),
)
def test_the_whole_frame_maps_there_and_back(
    size: tuple[int, int], into: tuple[int, int], resize: str
) -> None:
    placed = fit(size, into, resize)  # type: ignore[arg-type]
    put = placed.put
    corners = np.array(
        [[put.left, put.top, put.left + put.width, put.top + put.height]], np.float32
    )
    back = placed.to_frame(corners.copy(), size)
    assert np.allclose(back, [[0, 0, *size]], atol=0.01)
    assert 0 <= put.left <= put.left + put.width <= into[0]
    assert 0 <= put.top <= put.top + put.height <= into[1]


def test_crop_keeps_the_middle() -> None:
    placed = fit((200, 100), (50, 50), "crop")
    assert (placed.take.left, placed.take.width, placed.take.height) == (50, 100, 100)
    boxes = placed.to_frame(np.array([[0, 0, 50, 50]], np.float32), (200, 100))
    assert boxes.tolist() == [[50, 0, 150, 100]]


@pytest.mark.parametrize(
    ("shape", "kind", "error", "words"),
    [
        ((1, 1, 8, 8), "float32", ModelError, "three channels"),
        ((2, 3, 8, 8), "float32", ModelError, "one image"),
        ((1, 3, 8), "float32", ModelError, "one image"),
        ((1, 3, 8, 8), "int64", ModelError, "int64"),
    ],
)
def test_inputs_that_are_no_image_are_refused(
    shape: tuple[int, ...], kind: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Preprocessor(TensorSpec("x", shape, kind), np.zeros(shape, kind), PreprocessConfig())


def test_a_layout_that_contradicts_the_tensor_is_refused() -> None:
    spec = TensorSpec("x", (1, 3, 8, 8), "float32")
    with pytest.raises(ConfigError, match="layout"):
        Preprocessor(spec, np.zeros(spec.shape, np.float32), PreprocessConfig(layout="nhwc"))
