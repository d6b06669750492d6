"""The device port over PyCUDA. Events and graphs go past it, straight to the driver.

PyCUDA keeps a stack of contexts per thread and aborts the process when a thread ends with one pushed:
`push` and `pop` around every use keep it empty. It opens all streams with the default priority.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import CudaError
from edgetrt.gpu import driver, graphs
from edgetrt.gpu.status import cuda_error, mebibytes, status_of
from edgetrt.types import DeviceInfo

if TYPE_CHECKING:
    from edgetrt.ports import Event, Stream
    from edgetrt.types import Shape


def _library() -> Any:
    try:
        import pycuda.driver
    except ImportError as error:
        raise CudaError(
            f"PyCUDA cannot be imported: {error}",
            "Build it with `sudo edgetrt setup pycuda`; that needs CUDA's headers and nvcc.",
        ) from error
    return pycuda.driver


@contextmanager
def _told(cu: Any, what: str) -> Iterator[None]:
    """Turn PyCUDA's exceptions into ours."""
    try:
        yield
    except cu.Error as error:
        raise cuda_error(what, status_of(str(error)), str(error)) from error


class _Pushed(threading.local):
    """How often this thread has pushed."""

    depth = 0


_here = _Pushed()


class PyCudaDevice:
    """A GPU; opening it keeps its primary context alive until `close`.

    Raises:
        CudaError: no PyCUDA, no driver, no such GPU, or the driver refuses.
    """

    def __init__(self, ordinal: int = 0) -> None:
        self._cu: Any = _library()
        with _told(self._cu, f"opening GPU {ordinal}"):
            self._cu.init()
            device = self._cu.Device(ordinal)
            self._context: Any = device.retain_primary_context()
        self._handle = int(self._context.handle)
        self._driver = driver.load()
        self._open = True
        self.info = self._describe(device)

    def push(self) -> None:
        """Make the context current in this thread.

        PyCUDA keeps a stack of its own, which must be empty when the thread ends. The driver's context
        below it stays (`enter`), for the calls of every frame, which go past PyCUDA.
        """
        if not _here.depth:
            self._driver.enter(self._handle)
        with _told(self._cu, "taking the GPU's context"):
            self._context.push()
        _here.depth += 1

    def pop(self) -> None:
        """Take back the last `push` of this thread."""
        with _told(self._cu, "leaving the GPU's context"):
            self._cu.Context.pop()
        _here.depth -= 1

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        with _told(self._cu, "reading the GPU's free memory"):
            free, total = self._cu.mem_get_info()
        return int(free), int(total)

    def buffer(self, nbytes: int) -> DeviceBuffer:
        """Device memory."""
        what = f"allocating {mebibytes(nbytes)} on the GPU"
        try:
            with _told(self._cu, what):
                allocation = self._cu.mem_alloc(nbytes)
        except CudaError as error:
            raise self._with_memory(error, what) from error
        return DeviceBuffer(self._cu, allocation, nbytes)

    def host_buffer(self, shape: Shape, dtype: str) -> HostBuffer:
        """Page-locked, mapped host memory."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        what = f"allocating {mebibytes(nbytes)} of page-locked memory"
        flags = self._cu.host_alloc_flags
        try:
            with _told(self._cu, what):
                array = self._cu.pagelocked_empty(
                    shape, np.dtype(dtype), mem_flags=flags.DEVICEMAP | flags.PORTABLE
                )
                return HostBuffer(self._cu, array, int(array.base.get_device_pointer()))
        except CudaError as error:
            raise self._with_memory(error, what) from error

    def stream(self, priority: int = 0) -> PyCudaStream:
        """Open a non-blocking stream; PyCUDA knows one priority only."""
        with _told(self._cu, "opening a stream"):
            return PyCudaStream(self._cu, self._cu.Stream(1), self._driver, self._handle)

    def event(self, *, timing: bool = False, spin: bool = False) -> driver.DriverEvent:
        """Make an event whose waiters sleep or spin."""
        return driver.DriverEvent(self._driver, self._handle, timing=timing, spin=spin)

    def module(self, image: bytes) -> PyCudaModule:
        """Load a cubin or PTX."""
        with _told(self._cu, "loading kernels"):
            return PyCudaModule(self._cu, self._cu.module_from_buffer(image))

    def close(self) -> None:
        """Let go of the primary context; may be called twice."""
        if self._open:
            self._open = False
            self._driver.leave(self._handle)
            with _told(self._cu, "closing the GPU"):
                self._context.detach()

    def _with_memory(self, error: CudaError, what: str) -> CudaError:
        if error.status != "CUDA_ERROR_OUT_OF_MEMORY":
            return error
        free, total = self.memory()
        detail = f"{mebibytes(free)} of {mebibytes(total)} are free"
        return cuda_error(what, error.status, detail)

    def _describe(self, device: Any) -> DeviceInfo:
        with _told(self._cu, "describing the GPU"):
            version = int(self._cu.get_driver_version())
            return DeviceInfo(
                str(device.name()),
                tuple(device.compute_capability()),
                (version // 1000, version % 1000 // 10),
                bool(device.get_attribute(self._cu.device_attribute.INTEGRATED)),
            )


class DeviceBuffer:
    """Memory on the GPU."""

    def __init__(self, cu: Any, allocation: Any, nbytes: int) -> None:
        self._cu = cu
        self._allocation = allocation
        self.pointer = int(allocation)
        self.nbytes = nbytes

    def close(self) -> None:
        """Free it; may be called twice."""
        allocation, self._allocation, self.pointer = self._allocation, None, 0
        if allocation is not None:
            with _told(self._cu, "freeing GPU memory"):
                allocation.free()


class HostBuffer:
    """Page-locked memory seen by both sides."""

    def __init__(self, cu: Any, array: NDArray[np.generic], pointer: int) -> None:
        self._cu = cu
        self._allocation: Any = array.base
        self.array = array
        self.pointer = pointer

    def close(self) -> None:
        """Free it; may be called twice."""
        allocation, self._allocation = self._allocation, None
        if allocation is not None:
            with _told(self._cu, "freeing page-locked memory"):
                allocation.free()


class PyCudaStream:
    """Work in order."""

    def __init__(self, cu: Any, raw: Any, library: driver.Driver, context: int) -> None:
        self._cu = cu
        self._driver, self._context = library, context
        self.raw = raw
        self.handle = int(raw.handle)

    def copy_in(self, pointer: int, array: NDArray[np.generic]) -> None:
        """Queue a copy from page-locked host memory to the device."""
        with _told(self._cu, f"copying {mebibytes(array.nbytes)} to the GPU"):
            self._cu.memcpy_htod_async(pointer, array, self.raw)

    def copy_out(self, array: NDArray[np.generic], pointer: int) -> None:
        """Queue a copy from the device to page-locked host memory."""
        with _told(self._cu, f"copying {mebibytes(array.nbytes)} from the GPU"):
            self._cu.memcpy_dtoh_async(array, pointer, self.raw)

    def record(self, event: Event) -> None:
        """Let the event happen when everything queued so far is done."""
        driver.own(event).record(self.handle)

    def follow(self, event: Event) -> None:
        """Queue nothing more before the event has happened."""
        driver.own(event).hold(self.handle)

    def capture(self, enqueue: Callable[[], None]) -> graphs.CapturedGraph:
        """Record what `enqueue` queues."""
        return graphs.capture(self._driver, self._context, self.handle, enqueue)

    def synchronize(self) -> None:
        """Wait for everything queued so far."""
        with _told(self._cu, "waiting for a stream"):
            self.raw.synchronize()

    def close(self) -> None:
        """Free it; may be called twice."""
        self.raw = None


class PyCudaModule:
    """Compiled kernels."""

    def __init__(self, cu: Any, raw: Any) -> None:
        self._cu = cu
        self._raw = raw

    def bind(self, kernel: str, grid: Shape, block: Shape, arguments: bytes) -> PyCudaLaunch:
        """Prepare a launch."""
        with _told(self._cu, f"finding kernel {kernel!r}"):
            function = self._raw.get_function(kernel)
            function.prepare([f"{len(arguments)}s"])
        return PyCudaLaunch(self._cu, function, kernel, (tuple(grid), tuple(block)), arguments)

    def close(self) -> None:
        """Unload it; may be called twice."""
        self._raw = None


class PyCudaLaunch:
    """A kernel with everything it needs."""

    def __init__(
        self, cu: Any, function: Any, kernel: str, shape: tuple[Shape, Shape], arguments: bytes
    ) -> None:
        self._cu = cu
        self._function = function
        self._what = f"launching {kernel!r}"
        self._grid, self._block = shape
        self._arguments = arguments

    def enqueue(self, stream: Stream) -> None:
        """Queue it."""
        if not isinstance(stream, PyCudaStream):
            raise CudaError(f"a stream of another library ({type(stream).__name__}) for PyCUDA")
        with _told(self._cu, self._what):
            self._function.prepared_async_call(self._grid, self._block, stream.raw, self._arguments)
