"""Pictures in NVMM: what is read of NVIDIA's description, what is refused, and that nothing stays open."""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edgetrt.errors import SourceLostError
from edgetrt.sources import nvbufsurface
from edgetrt.sources.nvbufsurface import LAYOUTS, Batch, Library, Params, PlaneParams
from edgetrt.sources.surfaces import MOST
from edgetrt.types import Frame, PixelFormat
from tests.gpu import reference
from tests.standins import nvmm
from tests.standins.nvmm import BLOCK_LINEAR, Buffer, Nvmm


@pytest.fixture(scope="module", params=[(), ("-DDEEPSTREAM_9",)], ids=["r35", "ds9"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Nvmm:
    return nvmm.build(tmp_path_factory.mktemp("nvmm"), *request.param)


@pytest.fixture
def camera(built: Nvmm) -> Iterator[Nvmm]:
    built.reset()
    yield built
    assert built.counts() == {}


@pytest.fixture
def buffer(camera: Nvmm) -> Iterator[Buffer]:
    made = camera.make(66, 38)
    yield made
    made.free()


class Sample:
    """Keeps a buffer, as GStreamer's does."""


def test_fields_are_where_the_library_has_them(camera: Nvmm) -> None:
    at = camera.offset
    assert at("Surface") in LAYOUTS
    assert LAYOUTS[at("Surface")] == (at("SurfaceParams"), at("MappedAddr"))
    assert ctypes.sizeof(PlaneParams) == at("PlaneParams")
    for name in ("batchSize", "numFilled", "memType", "surfaceList"):
        assert getattr(Batch, name).offset == at(f"Surface.{name}"), name
    for name in (
        "width",
        "height",
        "colorFormat",
        "layout",
        "bufferDesc",
        "dataSize",
        "planeParams",
    ):
        assert getattr(Params, name).offset == at(f"SurfaceParams.{name}"), name
    for name in ("num_planes", "pitch", "offset"):
        assert getattr(PlaneParams, name).offset == at(f"PlaneParams.{name}"), name
    assert Params.addr.offset == at("SurfaceParams.mappedAddr")
    assert Params.eglImage.offset == at("SurfaceParams.mappedAddr") + at("MappedAddr.eglImage")


@pytest.mark.parametrize(
    ("form", "pixel_format", "color"),
    [
        (1, "gray", "bt601"),
        (6, "nv12", "bt601"),
        (7, "nv12", "bt601-full"),
        (14, "yuyv", "bt601"),
        (19, "rgbx", "bt601"),
        (24, "bgrx", "bt601"),
        (33, "nv12", "bt709"),
        (34, "nv12", "bt709-full"),
        (36, "nv12", "bt2020"),
    ],
)
def test_what_the_hardware_wrote_is_what_the_cpu_reads(
    camera: Nvmm, form: int, pixel_format: PixelFormat, color: str
) -> None:
    wanted = reference.random_frame((66, 38), pixel_format, form).data
    buffer = camera.make(66, 38, form)
    buffer.fill(wanted)
    frame = camera.frame(buffer)
    surface = camera.lend(buffer)
    assert (frame.format, frame.size, surface.color) == (pixel_format, (66, 38), color)
    assert surface.shape == wanted.shape
    assert all(pitch % 256 == 0 and pitch > 66 for pitch in surface.pitches)
    np.testing.assert_array_equal(frame.data, wanted)
    assert camera.counts() == {}
    assert buffer.untouched
    buffer.free()


def test_it_is_copied_once(camera: Nvmm, buffer: Buffer) -> None:
    buffer.fill(reference.random_frame((66, 38), "nv12", 1).data)
    frame = camera.frame(buffer)
    first = frame.data
    buffer.fill(reference.random_frame((66, 38), "nv12", 2).data)  # the camera must not, but may
    assert frame.data is first
    kept = frame.kept()
    assert isinstance(kept.pixels, np.ndarray)
    assert (kept.size, kept.format, kept.seq) == (frame.size, frame.format, frame.seq)


def test_the_buffer_is_kept_until_nobody_refers_to_the_picture(
    camera: Nvmm, buffer: Buffer
) -> None:
    sample = Sample()
    alive = weakref.ref(sample)
    frame = camera.frame(buffer, sample=sample)
    del sample
    kept = frame.kept()
    gc.collect()
    assert alive() is not None
    del frame
    assert alive() is None, "who keeps a picture keeps a copy"
    assert kept.size == (66, 38)


def test_two_threads_may_read_it_at_once(camera: Nvmm, buffer: Buffer) -> None:
    wanted = reference.random_frame((66, 38), "nv12", 3).data
    buffer.fill(wanted)
    frame = camera.frame(buffer)
    got: list[bool] = []
    threads = [
        threading.Thread(target=lambda: got.append(bool((frame.data == wanted).all())))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert got == [True] * 4


def planes(change: Callable[[Params], None]) -> Callable[[Nvmm], Buffer]:
    def make(camera: Nvmm) -> Buffer:
        buffer = camera.make(66, 38)
        change(buffer.params)
        return buffer

    return make


def set_pitch(params: Params, plane: int, pitch: int) -> None:
    params.planeParams.pitch[plane] = pitch


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (lambda c: c.make(66, 38, 6, BLOCK_LINEAR), "block-linear", "bl-output=false"),
        (lambda c: c.make(66, 38, memory=2), "memory of type 2", "main memory"),
        (lambda c: c.make(66, 38, 8), "colour format 8", "nvvidconv"),
        (lambda c: c.make(66, 38, batch=2), "a batch of 2", "nvstreammux"),
        (lambda c: c.make(66, 37), "expected even sizes", "another size"),
        (planes(lambda p: set_pitch(p, 1, 64)), r"rows of \[256, 64\]", ""),
        (planes(lambda p: setattr(p, "height", 4000)), "cannot be", ""),
        (planes(lambda p: setattr(p, "dataSize", 9000)), "9000 bytes in all cannot be", ""),
        (planes(lambda p: setattr(p.planeParams, "num_planes", 3)), "in 3 planes", ""),
        (planes(lambda p: setattr(p, "width", 0)), "nv12 of 0×38", ""),
        (planes(lambda p: setattr(p, "bufferDesc", 987654)), "file 987654", "too early"),
        (planes(lambda p: setattr(p, "bufferDesc", 2**63)), "cannot be used", "too early"),
    ],
)
def test_what_cannot_be_read_is_refused(
    camera: Nvmm, make: Callable[[Nvmm], Buffer], message: str, hint: str
) -> None:
    buffer = make(camera)
    with pytest.raises(SourceLostError, match=message) as caught:
        camera.lend(buffer)
    buffer.free()
    assert caught.value.message.startswith("camera: ")
    assert hint in caught.value.hint


def test_a_layout_that_is_not_known_is_refused(camera: Nvmm, buffer: Buffer) -> None:
    with pytest.raises(SourceLostError, match="a NvBufSurface of 80 bytes, expected one of 64, 72"):
        camera.opened()(buffer.raw.ljust(80, b"\0"), None)
    with pytest.raises(SourceLostError, match="a NvBufSurface of 0 bytes"):
        camera.opened()(b"", None)


def test_a_description_is_read_again_when_it_changes(camera: Nvmm) -> None:
    buffers = [camera.make(66, 38) for _ in range(MOST + 3)]
    for buffer in buffers:
        assert camera.lend(buffer).color == "bt601"
    buffers[0].params.colorFormat = 33
    assert camera.lend(buffers[0]).color == "bt709"
    buffers[0].params.layout = BLOCK_LINEAR
    with pytest.raises(SourceLostError, match="block-linear"):
        camera.lend(buffers[0])
    for buffer in buffers:
        buffer.free()


@pytest.mark.parametrize("call", ["NvBufSurfaceMap", "NvBufSurfaceSyncForCpu"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_refusal_is_told_and_leaves_nothing_mapped(
    camera: Nvmm, buffer: Buffer, call: str, after: int
) -> None:
    frame = camera.frame(buffer)
    camera.refuse(call, after)
    with pytest.raises(SourceLostError, match=f"camera: {call} failed") as caught:
        assert frame.data.size
    assert "DISPLAY" in caught.value.hint
    assert camera.counts() == {}
    camera.refuse("")
    assert frame.data.shape == (57, 66), "the next try may go well"


def test_an_egl_image_outlives_the_picture_and_the_camera(camera: Nvmm) -> None:
    buffer = camera.make(66, 38)
    handle, free = camera.lend(buffer).egl_image()
    assert handle
    assert camera.counts() == {"images": 1}
    assert buffer.untouched
    buffer.free()  # its description is rubbish from now on
    free()
    assert camera.counts() == {}


def test_no_egl_image_is_told(camera: Nvmm, buffer: Buffer) -> None:
    camera.refuse("NvBufSurfaceMapEglImage")
    with pytest.raises(SourceLostError, match="NvBufSurfaceMapEglImage failed"):
        camera.lend(buffer).egl_image()


def test_memory_is_told_apart_by_its_file_and_not_by_the_file_s_number(camera: Nvmm) -> None:
    first = camera.make(66, 38)
    number, memory = int(first.params.bufferDesc), camera.lend(first).memory
    assert camera.lend(first).memory == memory
    first.free()
    second = camera.make(66, 38)
    assert int(second.params.bufferDesc) == number, "the number is used again at once"
    assert camera.lend(second).memory != memory
    second.free()


def test_no_library_is_told() -> None:
    with pytest.raises(SourceLostError, match=r"libno-such-thing\.so") as caught:
        Library(("libneither.so", "libno-such-thing.so"))
    assert "nvidia-l4t-multimedia-utils" in caught.value.hint
    with pytest.raises(SourceLostError, match="NvBufSurfaceMap"):
        Library(("libc.so.6",))


def test_the_numbers_of_formats_are_ours_once() -> None:
    assert {pixel_format for pixel_format, *_ in nvbufsurface.FORMATS.values()} == {
        *("gray", "nv12", "yuyv", "rgbx", "bgrx"),
    }


def test_a_frame_of_an_array_is_what_it_was() -> None:
    data = np.zeros((4, 6, 3), np.uint8)
    frame = Frame(data, "rgb", 1, 2)
    assert frame.data is data
    assert frame.kept().pixels is data
    assert frame.size == (6, 4)
