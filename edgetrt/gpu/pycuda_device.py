"""The device port over PyCUDA. Graphs come from cuda-python, on the same handles.

PyCUDA keeps a stack of contexts per thread and aborts the process when a thread ends with one pushed:
`push` and `pop` around every use keep it empty. It opens all streams with the default priority.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import CudaError
from edgetrt.gpu import graphs
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
            "Install `pycuda`; it is built on the device and needs CUDA's headers and nvcc.",
        ) from error
    return pycuda.driver


@contextmanager
def _told(cu: Any, what: str) -> Iterator[None]:
    """Turn PyCUDA's exceptions into ours."""
    try:
        yield
    except cu.Error as error:
        raise cuda_error(what, status_of(str(error)), str(error)) from error


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
        self._open = True
        self.info = self._describe(device)

    def push(self) -> None:
        """Make the context current in this thread."""
        with _told(self._cu, "taking the GPU's context"):
            self._context.push()

    def pop(self) -> None:
        """Take back the last `push` of this thread."""
        with _told(self._cu, "leaving the GPU's context"):
            self._cu.Context.pop()

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
            return PyCudaStream(self._cu, self._cu.Stream(1))

    def event(self, *, timing: bool = False, spin: bool = False) -> PyCudaEvent:
        """Make an event whose waiters sleep or spin."""
        kinds = self._cu.event_flags
        flags = int(0 if spin else kinds.BLOCKING_SYNC)
        flags |= int(0 if timing else kinds.DISABLE_TIMING)
        with _told(self._cu, "making an event"):
            return PyCudaEvent(self._cu, self._cu.Event(flags))

    def module(self, image: bytes) -> PyCudaModule:
        """Load a cubin or PTX."""
        with _told(self._cu, "loading kernels"):
            return PyCudaModule(self._cu, self._cu.module_from_buffer(image))

    def close(self) -> None:
        """Let go of the primary context; may be called twice."""
        if self._open:
            self._open = False
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
                graphs.missing(),
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

    def __init__(self, cu: Any, raw: Any) -> None:
        self._cu = cu
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
        with _told(self._cu, "recording an event"):
            _own(event).record(self.raw)

    def follow(self, event: Event) -> None:
        """Queue nothing more before the event has happened."""
        with _told(self._cu, "ordering two streams"):
            self.raw.wait_for_event(_own(event))

    def capture(self, enqueue: Callable[[], None]) -> graphs.CapturedGraph:
        """Record what `enqueue` queues."""
        return graphs.capture(self.handle, enqueue)

    def synchronize(self) -> None:
        """Wait for everything queued so far."""
        with _told(self._cu, "waiting for a stream"):
            self.raw.synchronize()

    def close(self) -> None:
        """Free it; may be called twice."""
        self.raw = None


class PyCudaEvent:
    """A point in a stream."""

    def __init__(self, cu: Any, raw: Any) -> None:
        self._cu = cu
        self.raw = raw

    def wait(self) -> None:
        """Sleep until it has happened."""
        with _told(self._cu, "waiting for the GPU"):
            self.raw.synchronize()

    def since(self, start: Event) -> float:
        """Milliseconds from `start` to this one."""
        with _told(self._cu, "reading a time"):
            return float(self.raw.time_since(_own(start)))

    def close(self) -> None:
        """Free it; may be called twice."""
        self.raw = None


def _own(event: Event) -> Any:
    """PyCUDA's object inside an event of this adapter."""
    if not isinstance(event, PyCudaEvent):
        raise CudaError(f"an event of another library ({type(event).__name__}) on a PyCUDA stream")
    return event.raw


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
