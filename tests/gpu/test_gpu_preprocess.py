"""The fused pass against plain numpy and against the CPU path, pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetrt.config import PreprocessConfig
from edgetrt.errors import ConfigError, InferenceError, ModelError
from edgetrt.gpu.layout import BT601, BT709, frame_shape, target, yuv_matrix
from edgetrt.gpu.preprocess import GpuPreprocessor, Memory
from edgetrt.ports import Device, Module
from edgetrt.runtime import imaging
from edgetrt.runtime.preprocess import Preprocessor
from edgetrt.types import Frame, PixelFormat, Shape, TensorSpec
from tests.gpu import reference

STEP = 1 / 255


def run(
    device: Device,
    module: Module,
    frames: list[Frame],
    shape: Shape,
    dtype: str = "float32",
    config: PreprocessConfig | None = None,
    memory: Memory | None = None,
    **more: Any,
) -> NDArray[Any]:
    """Preprocess a batch of frames and fetch the tensor."""
    config = config or PreprocessConfig()
    device.push()
    tensor = device.host_buffer(shape, dtype)
    tensor.array.view(np.uint8)[...] = 0xA5
    stream = device.stream()
    quantum = more.pop("quantum", 1.0)
    into = target(TensorSpec("images", shape, dtype), tensor.pointer, config, quantum)
    preprocessor = GpuPreprocessor(device, module, into, config, memory, **more)
    try:
        for index, frame in enumerate(frames):
            preprocessor.write(frame, index)
        preprocessor.enqueue(stream)
        stream.synchronize()
        return tensor.array.copy()
    finally:
        preprocessor.close()
        stream.close()
        tensor.close()
        device.pop()


def assert_same(got: NDArray[Any], expected: NDArray[Any], atol: float) -> None:
    """Equal but for the rounding of a tap that lies half-way between two grey levels."""
    difference = np.abs(got.astype(np.float64) - expected)
    assert difference.max() <= STEP + atol
    assert (difference > atol).mean() <= 0.002


@pytest.mark.parametrize("pixel_format", reference.FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_format_is_what_numpy_makes_of_it(
    device: Device, preprocess_kernels: Module, pixel_format: PixelFormat, dtype: str
) -> None:
    frame = reference.random_frame((98, 54), pixel_format, 1)
    got = run(device, preprocess_kernels, [frame], (1, 3, 48, 64), dtype)
    expected = reference.preprocess(frame, (64, 48), PreprocessConfig())
    assert_same(got[0], expected, 1e-5 if dtype == "float32" else 5e-4)


@pytest.mark.parametrize("resize", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("planar", [True, False])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_every_fit_layout_and_order(
    device: Device, preprocess_kernels: Module, resize: Any, planar: bool, color: Any
) -> None:
    config = PreprocessConfig(
        resize=resize, color=color, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), pad=7
    )
    frame = reference.random_frame((90, 50), "bgr", 2)
    shape = (1, 3, 40, 33) if planar else (1, 40, 33, 3)
    got = run(device, preprocess_kernels, [frame], shape, config=config)
    expected = reference.preprocess(frame, (33, 40), config, planar=planar)
    np.testing.assert_allclose(got[0], expected, atol=5e-5)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    into=st.tuples(st.integers(1, 80), st.integers(1, 40)),
    pixel_format=st.sampled_from(reference.FORMATS),
    resize=st.sampled_from(["letterbox", "stretch", "crop"]),
    seed=st.integers(0, 99),
)
def test_any_size_into_any_size(
    device: Device,
    preprocess_kernels: Module,
    size: tuple[int, int],
    into: tuple[int, int],
    pixel_format: PixelFormat,
    resize: Any,
    seed: int,
) -> None:
    size = (size[0] + size[0] % 2, size[1] + size[1] % 2)
    config = PreprocessConfig(resize=resize)
    frame = reference.random_frame(size, pixel_format, seed)
    got = run(device, preprocess_kernels, [frame], (1, 3, into[1], into[0]), config=config)
    expected = reference.preprocess(frame, into, config)
    # A sampling point computed in float32 may fall a hair beside the one in float64, and a tap of
    # YUV that lies half-way between two levels on its other side.
    limit = STEP + 2e-4 if pixel_format in ("nv12", "yuyv") else 2e-4
    np.testing.assert_allclose(got[0], expected, rtol=0, atol=limit)


@pytest.mark.parametrize("pixel_format", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_it_is_within_one_grey_level_of_the_cpu(
    device: Device, preprocess_kernels: Module, pixel_format: PixelFormat, dtype: str
) -> None:
    if imaging.resizer() != "opencv":
        pytest.skip("Pillow averages when it shrinks; the two are one with OpenCV only")
    shape = (1, 3, 96, 128)
    frame = reference.random_frame((322, 242), pixel_format, 3)
    buffer = np.zeros(shape, dtype)
    spec = TensorSpec("images", shape, dtype)
    placed = Preprocessor(spec, buffer, PreprocessConfig()).write(frame)
    got = run(device, preprocess_kernels, [frame], shape, dtype)
    limit = 1.0 if dtype == "uint8" else STEP + 1e-6
    difference = np.abs(got.astype(np.float64) - buffer.astype(np.float64))
    assert difference.max() <= limit
    assert placed.put.width == 128


def test_whole_bytes_are_rounded_and_int8_saturates(
    device: Device, preprocess_kernels: Module
) -> None:
    frame = reference.random_frame((64, 48), "nv12", 4)
    plain = PreprocessConfig(scale=1.0)
    exact = reference.preprocess(frame, (32, 32), plain)
    raw = run(device, preprocess_kernels, [frame], (1, 3, 32, 32), "uint8")
    assert np.abs(raw[0].astype(float) - exact).max() <= 0.5 + 1e-3
    quantized = run(device, preprocess_kernels, [frame], (1, 3, 32, 32), "int8", quantum=1 / 200)
    wanted = (exact / 255 * 200).clip(-128, 127)
    assert np.abs(quantized[0] - wanted).max() <= 0.5 + 1e-3
    assert quantized.max() == 127


@pytest.mark.parametrize("memory", ["mapped", "copied"])
def test_a_batch_is_its_frames_one_by_one(
    device: Device, preprocess_kernels: Module, memory: Memory
) -> None:
    frames = [reference.random_frame((66, 38), "nv12", seed) for seed in range(3)]
    got = run(device, preprocess_kernels, frames, (3, 3, 32, 48), memory=memory)
    for image, frame in zip(got, frames, strict=True):
        expected = reference.preprocess(frame, (48, 32), PreprocessConfig())
        assert_same(image, expected, 1e-5)


def test_another_colour_matrix(device: Device, preprocess_kernels: Module) -> None:
    frame = reference.random_frame((32, 32), "nv12", 5)
    got = run(device, preprocess_kernels, [frame], (1, 3, 32, 32), matrix=BT709)
    expected = reference.preprocess(frame, (32, 32), PreprocessConfig(), matrix=BT709)
    assert_same(got[0], expected, 1e-5)
    assert (got[0] != run(device, preprocess_kernels, [frame], (1, 3, 32, 32))[0]).any()


def test_known_colours_of_bt601() -> None:
    assert BT601.v_red == pytest.approx(1.596, abs=1e-3)
    assert BT601.u_blue == pytest.approx(2.017, abs=1e-3)
    assert BT601.u_green == pytest.approx(-0.392, abs=1e-3)
    assert BT601.v_green == pytest.approx(-0.813, abs=1e-3)
    full = yuv_matrix(0.299, 0.114, full_range=True)
    assert (full.y_offset, full.y_gain) == (0.0, 1.0)
    assert full.v_red == pytest.approx(1.402)


def test_a_new_size_is_planned_once_and_then_refused(
    device: Device, preprocess_kernels: Module
) -> None:
    device.push()
    tensor = device.host_buffer((1, 3, 16, 16), "float32")
    into = target(TensorSpec("x", (1, 3, 16, 16), "float32"), tensor.pointer, PreprocessConfig())
    preprocessor = GpuPreprocessor(device, preprocess_kernels, into, PreprocessConfig())
    keys = []
    for size in ((32, 32), (32, 32), (20, 16), (32, 32)):
        preprocessor.write(reference.random_frame(size, "rgb", 0))
        keys.append(preprocessor.key)
    assert keys == [1, 1, 2, 1]
    with pytest.raises(InferenceError, match=r"keep changing: rgb 8×8 after rgb 32×32, rgb 20×16"):
        preprocessor.write(reference.random_frame((8, 8), "rgb", 0))
    preprocessor.close()
    tensor.close()
    device.pop()


def test_a_frame_in_the_staging_memory_is_not_copied(
    device: Device, preprocess_kernels: Module
) -> None:
    device.push()
    stream, tensor = device.stream(), device.host_buffer((1, 3, 16, 16), "float32")
    into = target(TensorSpec("x", (1, 3, 16, 16), "float32"), tensor.pointer, PreprocessConfig())
    preprocessor = GpuPreprocessor(device, preprocess_kernels, into, PreprocessConfig())
    slot: Any = preprocessor.staging((16, 16), "gray")[0]
    slot[...] = 51
    preprocessor.write(Frame(slot, "gray", 0, 0))
    preprocessor.enqueue(stream)
    stream.synchronize()
    np.testing.assert_allclose(tensor.array, 0.2, atol=1e-6)
    for thing in (preprocessor, stream, tensor):
        thing.close()
    device.pop()


def test_a_frame_that_is_not_what_it_says_is_refused(
    device: Device, preprocess_kernels: Module
) -> None:
    frame = Frame(np.zeros((16, 16, 3), np.uint8), "rgbx", 4, 0)
    with pytest.raises(InferenceError, match=r"frame 4: rgbx data of shape \(16, 16, 3\)"):
        run(device, preprocess_kernels, [frame], (1, 3, 8, 8))


def test_inference_before_the_first_frame_is_refused(
    device: Device, preprocess_kernels: Module
) -> None:
    with pytest.raises(InferenceError, match="no frame was written"):
        run(device, preprocess_kernels, [], (1, 3, 8, 8))


@pytest.mark.parametrize(("size", "pixel_format"), [((3, 2), "yuyv"), ((2, 3), "nv12")])
def test_odd_sizes_of_yuv_are_refused(size: tuple[int, int], pixel_format: PixelFormat) -> None:
    with pytest.raises(InferenceError, match="even"):
        frame_shape(size, pixel_format)


def test_tensors_that_are_no_images_are_refused() -> None:
    plain = PreprocessConfig()
    with pytest.raises(ModelError, match="int64"):
        target(TensorSpec("x", (1, 3, 8, 8), "int64"), 0, plain)
    with pytest.raises(ModelError, match="expected"):
        target(TensorSpec("x", (1, 300), "float32"), 0, plain)
    with pytest.raises(ConfigError, match="no three channels"):
        target(TensorSpec("x", (1, 8, 8, 3), "float32"), 0, PreprocessConfig(layout="nchw"))
    with pytest.raises(ConfigError, match="three channels"):
        target(TensorSpec("x", (1, 3, -1, -1), "float32"), 0, plain)
