"""What every GPU library promises: the fake, and each one this machine has a GPU for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgetrt.errors import CudaError
from edgetrt.gpu import compile as kernels
from edgetrt.gpu.device import DeviceLibrary, open_device
from edgetrt.ports import Device, Module
from tests.fakes import FakeDevice
from tests.gpu.host_compiler import HostCompiler, available


@pytest.fixture(params=["fake", "cuda-python", "pycuda"])
def library(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def unpushed(library: str) -> Iterator[Device]:
    if library == "fake":
        yield FakeDevice()
        return
    names: dict[str, DeviceLibrary] = {"cuda-python": "cuda-python", "pycuda": "pycuda"}
    try:
        opened = open_device(names[library])
    except CudaError as error:
        pytest.skip(error.message)
    yield opened
    opened.close()


@pytest.fixture
def device(unpushed: Device) -> Iterator[Device]:
    unpushed.push()
    yield unpushed
    unpushed.pop()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def module(device: Device, library: str, cache: Path) -> Iterator[Module]:
    """The detection filter, as a kernel to launch."""
    if library == "fake" and not available():
        pytest.skip("no host compiler")
    major, minor = device.info.compute_capability
    compiler = HostCompiler() if library == "fake" else None
    image = kernels.load("detect", major * 10 + minor, cache / library, compiler)
    loaded = device.module(image)
    yield loaded
    loaded.close()


def test_it_says_what_it_is(unpushed: Device) -> None:
    info = unpushed.info
    assert info.name
    assert info.compute_capability >= (5, 0)
    assert info.driver >= (11, 0)


def test_bytes_come_back_as_they_went(device: Device) -> None:
    stream = device.stream()
    there = device.buffer(4096)
    out, back = device.host_buffer((1024,), "float32"), device.host_buffer((1024,), "float32")
    out.array[:] = np.arange(1024)
    stream.copy_in(there.pointer, out.array)
    stream.copy_out(back.array, there.pointer)
    stream.synchronize()
    np.testing.assert_array_equal(back.array, out.array)
    for thing in (stream, there, out, back):
        thing.close()
        thing.close()


def test_copies_of_two_streams_keep_the_order_that_an_event_gives(device: Device) -> None:
    first, second, done = device.stream(), device.stream(priority=-1), device.event()
    there = device.buffer(1 << 20)
    out, back = device.host_buffer((1 << 20,), "uint8"), device.host_buffer((1 << 20,), "uint8")
    for value in range(1, 6):
        out.array[:] = value
        first.copy_in(there.pointer, out.array)
        first.record(done)
        second.follow(done)
        second.copy_out(back.array, there.pointer)
        second.synchronize()
        assert (back.array == value).all()
    for thing in (first, second, done, there, out, back):
        thing.close()


def test_events_measure(device: Device) -> None:
    stream = device.stream()
    begin, end = device.event(timing=True), device.event(timing=True)
    there, out = device.buffer(1 << 20), device.host_buffer((1 << 20,), "uint8")
    stream.record(begin)
    stream.copy_in(there.pointer, out.array)
    stream.record(end)
    end.wait()
    assert end.since(begin) > 0
    assert end.done()
    for thing in (stream, begin, end, there, out):
        thing.close()


def test_allocating_takes_memory_and_closing_gives_it_back(device: Device) -> None:
    size = 256 << 20
    before, total = device.memory()
    buffer = device.buffer(size)
    during, _ = device.memory()
    buffer.close()
    after, _ = device.memory()
    assert 0 < before <= total
    assert before - during >= size
    assert after - during >= size


def test_out_of_memory_says_how_much_is_free(device: Device) -> None:
    _, total = device.memory()
    with pytest.raises(CudaError, match=r"CUDA_ERROR_OUT_OF_MEMORY.*free") as caught:
        device.buffer(total * 2)
    assert not caught.value.fatal
    device.buffer(1024).close()


def test_a_kernel_runs_with_its_struct_and_sees_mapped_memory(
    device: Device, module: Module
) -> None:
    head = device.host_buffer((1, 5, 64), "float32")
    head.array[...] = 0
    head.array[0, :, 7] = (1, 2, 3, 4, 0.9)
    counters, found = device.host_buffer((2,), "int32"), device.host_buffer((4, 8), "int32")
    counters.array[:] = 0
    passed = device.host_buffer((1,), "int32")
    stream = device.stream()
    buffers = (head, counters, found, passed)
    pointers = np.array([buffer.pointer for buffer in buffers], np.uint64).tobytes()
    rest = np.array([1, 64, 4], np.int32).tobytes() + np.array([0.5], np.float32).tobytes()
    module.bind("filter_float32", (1, 1, 1), (64, 1, 1), pointers + rest).enqueue(stream)
    stream.synchronize()
    assert passed.array[0] == 1
    np.testing.assert_allclose(
        found.array[0, :5].copy().view("float32"), np.float32([1, 2, 3, 4, 0.9])
    )
    assert found.array[0, 6] == 7
    for thing in (*buffers, stream):
        thing.close()


def test_a_kernel_that_is_not_there_is_named(device: Device, module: Module) -> None:
    with pytest.raises(CudaError, match="nosuch"):
        module.bind("nosuch", (1, 1, 1), (1, 1, 1), b"\0" * 8)


def test_what_is_no_code_is_refused(device: Device) -> None:
    with pytest.raises(CudaError, match="loading kernels"):
        device.module(b"this is no machine code" + b"\0" * 64)
    device.buffer(1024).close()


def test_a_graph_replays_what_was_captured(device: Device) -> None:
    if device.info.graphs:
        pytest.skip(device.info.graphs)
    stream, there = device.stream(), device.buffer(4096)
    out, back = device.host_buffer((4096,), "uint8"), device.host_buffer((4096,), "uint8")
    back.array[:] = 0

    def round_trip() -> None:
        stream.copy_in(there.pointer, out.array)
        stream.copy_out(back.array, there.pointer)

    graph = stream.capture(round_trip)
    stream.synchronize()
    assert (back.array == 0).all()
    for value in (3, 9):
        out.array[:] = value
        graph.launch(stream)
        stream.synchronize()
        assert (back.array == value).all()
    for thing in (graph, stream, there, out, back):
        thing.close()
        thing.close()


def test_a_capture_that_fails_leaves_the_stream_usable(device: Device) -> None:
    if device.info.graphs:
        pytest.skip(device.info.graphs)
    stream, there, out = device.stream(), device.buffer(64), device.host_buffer((64,), "uint8")

    def broken() -> None:
        stream.copy_in(there.pointer, out.array)
        raise CudaError("refused half-way")

    with pytest.raises(CudaError, match="half-way"):
        stream.capture(broken)
    stream.copy_in(there.pointer, out.array)
    stream.synchronize()
    for thing in (stream, there, out):
        thing.close()


def test_threads_push_for_themselves(unpushed: Device) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            unpushed.push()
            try:
                unpushed.push()  # nested, as a session inside a loop that has pushed
                stream, there = unpushed.stream(), unpushed.buffer(64)
                out = unpushed.host_buffer((64,), "uint8")
                unpushed.pop()
                stream.copy_in(there.pointer, out.array)
                stream.synchronize()
                for thing in (stream, there, out):
                    thing.close()
            finally:
                unpushed.pop()
        except CudaError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures


def test_two_of_them_take_turns_in_a_thread(library: str, unpushed: Device) -> None:
    names: dict[str, DeviceLibrary] = {"cuda-python": "cuda-python", "pycuda": "pycuda"}
    other: Device = FakeDevice() if library == "fake" else open_device(names[library])
    for _ in range(2):
        unpushed.push()
        other.push()
        other.buffer(64).close()
        other.pop()
        unpushed.buffer(64).close()
        unpushed.pop()
    other.close()
    unpushed.push()
    unpushed.buffer(64).close()
    unpushed.pop()


def test_using_it_without_a_context_is_refused(unpushed: Device) -> None:
    answers: list[CudaError] = []

    def work() -> None:
        try:
            unpushed.buffer(64).close()
        except CudaError as error:
            answers.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert [a.status for a in answers] == ["CUDA_ERROR_INVALID_CONTEXT"]


def test_what_each_library_lacks_is_said() -> None:
    try:
        opened = open_device()
    except CudaError as error:
        told = error
    else:
        opened.close()
        pytest.skip("there is a GPU")
    assert "cuda-python" in told.message
    assert "pycuda" in told.message
    assert told.hint
