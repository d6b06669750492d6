"""The fused pass over pictures where the camera wrote them: the same result, and nothing left behind."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetrt.backends.device_session import DeviceSession, SessionOptions
from edgetrt.config import PreprocessConfig
from edgetrt.errors import CudaError, InferenceError
from edgetrt.gpu.egl import MOST, EglDriver, EglFrame
from edgetrt.gpu.layout import MATRICES, target
from edgetrt.gpu.preprocess import GpuPreprocessor
from edgetrt.gpu.surfaces import Sharing
from edgetrt.ports import Device, Module
from edgetrt.types import Frame, PixelFormat, TensorSpec
from tests.fakes import FakeDevice
from tests.gpu import reference
from tests.gpu.conftest import load
from tests.gpu.engines import Doubling
from tests.gpu.host_compiler import available
from tests.standins import nvmm
from tests.standins.nvmm import Buffer, Nvmm

SIZE = (66, 38)
INPUT = TensorSpec("x", (1, 3, 1, 2), "float32")
STRETCH = PreprocessConfig(resize="stretch")


class Checked(EglDriver):
    """The stand-in's calls, in a thread that must have pushed its device."""

    device: FakeDevice

    def register(self, image: int) -> int:
        self.device.check("registering")
        return super().register(image)

    def unregister(self, resource: int) -> None:
        self.device.check("unregistering")
        super().unregister(resource)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Nvmm:
    if not available():
        pytest.skip("no host compiler")
    return nvmm.build(tmp_path_factory.mktemp("nvmm"))


@pytest.fixture(scope="module")
def gpu() -> FakeDevice:
    return FakeDevice()


@pytest.fixture(scope="module")
def module(gpu: FakeDevice, kernel_cache: Any) -> Module:
    return load(gpu, "preprocess", kernel_cache)


@pytest.fixture
def camera(built: Nvmm, gpu: FakeDevice) -> Iterator[Nvmm]:
    built.reset()
    before = gpu.open, gpu.allocated
    yield built
    assert built.counts() == {}
    assert (gpu.open, gpu.allocated, gpu.depth) == (*before, 0)


@pytest.fixture
def sharing(camera: Nvmm, gpu: FakeDevice) -> Sharing:
    driver = Checked(camera.names[0])
    driver.device = gpu
    return Sharing(gpu, driver)


class Lane:
    """A session that doubles what the fused pass wrote."""

    def __init__(self, gpu: FakeDevice, module: Module, sharing: Sharing) -> None:
        engine = Doubling(gpu)
        engine.inputs = (INPUT,)
        self.session = DeviceSession(gpu, engine, SessionOptions())
        into = target(INPUT, self.session.pointer("x"), STRETCH)
        self.preprocessor = GpuPreprocessor(gpu, module, into, STRETCH, sharing=sharing)
        self.session.lead("x", self.preprocessor)

    def infer(self, frame: Frame) -> NDArray[Any]:
        self.preprocessor.write(frame)
        return self.session.infer()["y"].copy()

    def close(self) -> None:
        self.session.close()
        self.preprocessor.close()


@pytest.fixture
def lane(gpu: FakeDevice, module: Module, sharing: Sharing) -> Iterator[Lane]:
    made = Lane(gpu, module, sharing)
    yield made
    made.close()
    made.close()


@pytest.fixture
def pool(camera: Nvmm) -> Iterator[list[Buffer]]:
    made = [camera.make(*SIZE) for _ in range(3)]
    yield made
    for buffer in made:
        buffer.free()


def noise(seed: int, pixel_format: PixelFormat = "nv12") -> Frame:
    return reference.random_frame(SIZE, pixel_format, seed)


def answer(frame: Frame) -> NDArray[Any]:
    return reference.preprocess(frame, (2, 1), STRETCH).reshape(1, 6) * 2


def assert_answers(got: NDArray[Any], frame: Frame) -> None:
    np.testing.assert_allclose(got, answer(frame), rtol=0, atol=2 / 255 + 1e-5)


@pytest.mark.parametrize(
    ("form", "pixel_format"), [(6, "nv12"), (14, "yuyv"), (24, "bgrx"), (19, "rgbx"), (1, "gray")]
)
@pytest.mark.parametrize("resize", ["letterbox", "crop"])
def test_it_is_what_a_copied_picture_gives(
    camera: Nvmm,
    gpu: FakeDevice,
    module: Module,
    sharing: Sharing,
    form: int,
    pixel_format: PixelFormat,
    resize: Any,
) -> None:
    buffer = camera.make(*SIZE, form)
    buffer.fill(noise(form, pixel_format).data)
    config, spec = PreprocessConfig(resize=resize), TensorSpec("x", (1, 3, 32, 48), "float16")
    results = []
    gpu.push()
    stream = gpu.stream()
    for way in (sharing, None):
        tensor = gpu.host_buffer(spec.shape, spec.dtype)
        into = target(spec, tensor.pointer, config)
        preprocessor = GpuPreprocessor(gpu, module, into, config, sharing=way)
        preprocessor.write(camera.frame(buffer))
        assert camera.counts() == ({"images": 1, "resources": 1} if way else {})
        preprocessor.ahead(stream)
        preprocessor.enqueue(stream)
        stream.synchronize()
        results.append(tensor.array.copy())
        preprocessor.close()
        tensor.close()
    stream.close()
    gpu.pop()
    np.testing.assert_array_equal(*results)
    assert sharing.refusal == ""
    buffer.free()


@pytest.mark.parametrize(("form", "color"), [(7, "bt601-full"), (33, "bt709"), (36, "bt2020")])
def test_yuv_is_read_as_it_is_meant(
    camera: Nvmm, gpu: FakeDevice, module: Module, sharing: Sharing, form: int, color: Any
) -> None:
    buffer, frame = camera.make(*SIZE, form), noise(form)
    buffer.fill(frame.data)
    spec = TensorSpec("x", (1, 3, 38, 66), "float32")
    gpu.push()
    tensor, stream = gpu.host_buffer(spec.shape, spec.dtype), gpu.stream()
    into = target(spec, tensor.pointer, PreprocessConfig())
    preprocessor = GpuPreprocessor(gpu, module, into, PreprocessConfig(), sharing=sharing)
    preprocessor.write(camera.frame(buffer))
    preprocessor.ahead(stream)
    stream.synchronize()
    wanted = reference.to_rgb(frame, MATRICES[color]).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(tensor.array[0], wanted, rtol=0, atol=1 / 255 + 1e-5)
    for thing in (preprocessor, tensor, stream):
        thing.close()
    gpu.pop()
    buffer.free()


class OnDevice:
    """A surface in device memory, rows apart from each other, whose EGL image is its own address."""

    color, stream, memory = "bt601", None, 1

    def __init__(self, frame: Frame, pitch: int, address: int) -> None:
        self.shape, self.pitches, self.address = frame.pixels.shape, (pitch, pitch), address

    def __array__(self) -> NDArray[np.uint8]:
        raise AssertionError("nobody copies it")

    def egl_image(self) -> tuple[int, Any]:
        return self.address, lambda: None


class Pitched(EglDriver):
    """Sees an address as NV12 of one size."""

    def __init__(self, size: tuple[int, int], pitch: int) -> None:
        self.told = {"width": size[0], "height": size[1], "pitch": pitch, "planeCount": 2}
        self.unregistered = 0

    def register(self, image: int) -> int:
        return image

    def frame(self, resource: int) -> EglFrame:
        chroma = resource + self.told["height"] * self.told["pitch"]
        return EglFrame((resource, chroma), frameType=1, cuFormat=1, **self.told)

    def unregister(self, resource: int) -> None:
        self.unregistered += 1


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_that_lie_apart_are_read_on_every_device(
    device: Device, preprocess_kernels: Module, dtype: str
) -> None:
    frame, pitch, spec = noise(8), 256, TensorSpec("x", (1, 3, 48, 64), dtype)
    device.push()
    staging = device.host_buffer((57, pitch), "uint8")
    staging.array[:, :66] = frame.data
    memory, stream = device.buffer(57 * pitch), device.stream()
    tensor = device.host_buffer(spec.shape, dtype)
    stream.copy_in(memory.pointer, staging.array)
    driver = Pitched(SIZE, pitch)
    into, sharing = target(spec, tensor.pointer, PreprocessConfig()), Sharing(device, driver)
    preprocessor = GpuPreprocessor(
        device, preprocess_kernels, into, PreprocessConfig(), sharing=sharing
    )
    preprocessor.write(Frame(OnDevice(frame, pitch, memory.pointer), "nv12", 0, 0))
    preprocessor.ahead(stream)
    stream.synchronize()
    expected = reference.preprocess(frame, (64, 48), PreprocessConfig())
    difference = np.abs(tensor.array[0].astype(np.float64) - expected)
    for thing in (preprocessor, tensor, staging, memory, stream):
        thing.close()
    device.pop()
    assert (sharing.refusal, driver.unregistered) == ("", 1)
    assert difference.max() <= 1 / 255 + 5e-4
    assert (difference > 5e-4).mean() <= 0.002


def test_each_picture_gets_its_own_answer_from_one_graph(
    camera: Nvmm, gpu: FakeDevice, lane: Lane, pool: list[Buffer]
) -> None:
    launches, allocations = gpu.launches, gpu.allocations
    for turn in range(9):
        frame, buffer = noise(turn), pool[turn % 3]
        buffer.fill(frame.data)
        assert_answers(lane.infer(camera.frame(buffer)), frame)
    assert gpu.launches - launches == 8, "all but the warm run"
    assert gpu.allocations == allocations, "no staging memory"
    assert camera.registrations == 3, "each buffer once"


def test_the_same_picture_may_be_run_again(camera: Nvmm, lane: Lane, pool: list[Buffer]) -> None:
    frame = noise(1)
    pool[0].fill(frame.data)
    lane.infer(camera.frame(pool[0]))
    for _ in range(3):
        assert_answers(lane.session.infer()["y"], frame)


def test_a_picture_is_held_until_the_gpu_has_read_it(
    camera: Nvmm, lane: Lane, pool: list[Buffer]
) -> None:
    class Sample:
        """Keeps a buffer."""

    def begun(buffer: Buffer) -> weakref.ref[Sample]:
        sample = Sample()
        lane.preprocessor.write(camera.frame(buffer, sample=sample))
        lane.session.start()
        return weakref.ref(sample)

    first = begun(pool[0])
    gc.collect()
    assert first() is not None
    lane.session.wait()
    second = begun(pool[1])
    assert first() is None
    assert second() is not None
    lane.close()  # while it is in flight
    assert second() is None
    assert camera.counts() == {}


def test_a_camera_that_was_opened_anew_has_its_old_memory_let_go(
    camera: Nvmm, lane: Lane, pool: list[Buffer]
) -> None:
    for opening in range(3):
        lender = camera.opened()
        for buffer in pool:
            frame = noise(opening)
            buffer.fill(frame.data)
            assert_answers(lane.infer(camera.frame(buffer, lender)), frame)
        assert camera.counts() == {"images": 3, "resources": 3}
    assert camera.registrations == 9


def test_a_file_s_number_that_is_used_again_is_other_memory(camera: Nvmm, lane: Lane) -> None:
    for turn in range(3):
        buffer, frame = camera.make(*SIZE), noise(turn)
        buffer.fill(frame.data)
        assert_answers(lane.infer(camera.frame(buffer)), frame)
        buffer.free()
    assert camera.registrations == 3


def test_no_more_than_so_many_are_registered(camera: Nvmm, lane: Lane) -> None:
    buffers = [camera.make(*SIZE) for _ in range(MOST + 2)]
    for turn, buffer in enumerate(buffers):
        frame = noise(turn)
        buffer.fill(frame.data)
        assert_answers(lane.infer(camera.frame(buffer)), frame)
    assert camera.counts() == {"images": MOST, "resources": MOST}
    for buffer in buffers:
        buffer.free()


def refused(camera: Nvmm, lane: Lane, buffer: Buffer, caplog: Any) -> str:
    """Run pictures that CUDA refuses; returns what the log says."""
    with caplog.at_level(logging.WARNING):
        for turn in range(3):
            frame = noise(turn)
            buffer.fill(frame.data)
            assert_answers(lane.infer(camera.frame(buffer)), frame)
    assert camera.counts() == {}, "nothing is tried again, nothing is kept"
    assert len(caplog.messages) == 1
    return str(caplog.messages[0])


@pytest.mark.parametrize(
    ("call", "status", "told"),
    [
        ("NvBufSurfaceMapEglImage", 0, "camera: NvBufSurfaceMapEglImage failed"),
        ("cuGraphicsEGLRegisterImage", 304, "RegisterImage: CUDA_ERROR_OPERATING_SYSTEM"),
        ("cuGraphicsEGLRegisterImage", 999, "RegisterImage: CUDA_ERROR_UNKNOWN"),
        ("cuGraphicsResourceGetMappedEglFrame", 1, "EglFrame: CUDA_ERROR_INVALID_VALUE"),
    ],
)
def test_what_cuda_refuses_is_copied_for_a_stated_reason(
    camera: Nvmm,
    lane: Lane,
    sharing: Sharing,
    pool: list[Buffer],
    caplog: Any,
    call: str,
    status: int,
    told: str,
) -> None:
    camera.refuse(call, status=status)
    message = refused(camera, lane, pool[0], caplog)
    assert told in message
    assert told in sharing.refusal


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("frameType", 0, "as an array (block-linear)"),
        ("planeCount", 3, "3 planes of 66×38"),
        ("width", 64, "of 64×38"),
        ("height", 40, "of 66×40"),
        ("pitch", 512, "rows of 512 bytes"),
        ("cuFormat", 2, "in format 2"),
    ],
)
def test_what_a_kernel_cannot_read_is_copied(
    camera: Nvmm, lane: Lane, pool: list[Buffer], caplog: Any, field: str, value: int, told: str
) -> None:
    camera.tell(field, value)
    assert told in refused(camera, lane, pool[0], caplog)


def test_a_refusal_in_the_middle_lets_the_registered_ones_go(
    camera: Nvmm, gpu: FakeDevice, module: Module, sharing: Sharing, pool: list[Buffer]
) -> None:
    lanes = [Lane(gpu, module, sharing) for _ in range(2)]
    frames = [noise(seed) for seed in range(3)]
    for buffer, frame in zip(pool, frames, strict=True):
        buffer.fill(frame.data)
    for lane in lanes:
        assert_answers(lane.infer(camera.frame(pool[0])), frames[0])
    camera.refuse("cuGraphicsEGLRegisterImage")
    assert_answers(lanes[0].infer(camera.frame(pool[1])), frames[1])
    assert camera.counts() == {"images": 1, "resources": 1}, "the other lane's"
    camera.refuse("")
    for lane in reversed(lanes):
        for buffer, frame in zip(pool, frames, strict=True):
            assert_answers(lane.infer(camera.frame(buffer)), frame)
    assert camera.counts() == {}
    for lane in lanes:
        lane.close()


def test_memory_that_cuda_does_not_give_back_is_told_and_freed(
    camera: Nvmm, lane: Lane, pool: list[Buffer], caplog: Any
) -> None:
    lane.infer(camera.frame(pool[0]))
    camera.refuse("cuGraphicsUnregisterResource")
    with caplog.at_level(logging.WARNING):
        lane.close()
    assert "stays with the GPU: cuGraphicsUnregisterResource" in caplog.text


def test_a_driver_without_egl_leaves_pictures_to_be_copied(
    camera: Nvmm, gpu: FakeDevice, module: Module, pool: list[Buffer], caplog: Any
) -> None:
    class Without(Sharing):
        def mappings(self) -> Any:
            EglDriver("libc.so.6")

    lane = Lane(gpu, module, Without(gpu))
    assert "calls for EGL cannot be used" in refused(camera, lane, pool[0], caplog)
    lane.close()


def test_a_lost_context_is_no_refusal(
    camera: Nvmm, gpu: FakeDevice, lane: Lane, sharing: Sharing, pool: list[Buffer]
) -> None:
    class Lost(EglDriver):
        def register(self, image: int) -> int:
            raise CudaError("registering", "", "CUDA_ERROR_ILLEGAL_ADDRESS", fatal=True)

    sharing._driver = Lost(camera.names[0])
    with pytest.raises(CudaError) as caught:
        lane.infer(camera.frame(pool[0]))
    assert caught.value.fatal
    assert sharing.refusal == ""


def test_batches_are_copied(
    camera: Nvmm, gpu: FakeDevice, module: Module, sharing: Sharing, pool: list[Buffer]
) -> None:
    spec = TensorSpec("x", (2, 3, 32, 48), "float32")
    gpu.push()
    tensor, stream = gpu.host_buffer(spec.shape, spec.dtype), gpu.stream()
    into = target(spec, tensor.pointer, PreprocessConfig())
    preprocessor = GpuPreprocessor(gpu, module, into, PreprocessConfig(), sharing=sharing)
    for index in range(2):
        pool[index].fill(noise(index).data)
        preprocessor.write(camera.frame(pool[index]), index)
    preprocessor.ahead(stream)
    preprocessor.enqueue(stream)
    stream.synchronize()
    for index, image in enumerate(tensor.array):
        wanted = reference.preprocess(noise(index), (48, 32), PreprocessConfig())
        np.testing.assert_allclose(image, wanted, rtol=0, atol=1 / 255 + 1e-5)
    for thing in (preprocessor, tensor, stream):
        thing.close()
    gpu.pop()
    assert camera.registrations == 0


def test_frames_in_memory_and_surfaces_may_take_turns(
    camera: Nvmm, lane: Lane, pool: list[Buffer]
) -> None:
    for turn in range(6):
        frame = noise(turn)
        pool[0].fill(frame.data)
        mixed = frame if turn % 2 else camera.frame(pool[0])
        assert_answers(lane.infer(mixed), frame)


def test_a_third_size_is_refused_and_not_taken_for_cuda_s_refusal(
    camera: Nvmm, lane: Lane, sharing: Sharing, pool: list[Buffer]
) -> None:
    lane.infer(noise(0, "rgb"))
    lane.infer(camera.frame(pool[0]))
    other = camera.make(64, 32)
    with pytest.raises(
        InferenceError, match="keep changing: nv12 64×32 after rgb 66×38, nv12 66×38"
    ):
        lane.infer(camera.frame(other))
    assert sharing.refusal == ""
    other.free()


def test_cuda_s_description_has_its_layout(camera: Nvmm) -> None:
    assert camera.offset("EglFrame") == 64
    for name in ("width", "height", "pitch", "planeCount", "frameType", "cuFormat"):
        assert getattr(EglFrame, name).offset == camera.offset(f"EglFrame.{name}"), name
