"""The device port over cuda-python's driver API."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import CudaError
from edgetrt.gpu import bindings, driver, graphs
from edgetrt.gpu.bindings import call
from edgetrt.gpu.status import cuda_error, mebibytes
from edgetrt.types import DeviceInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetrt.ports import Event, Stream
    from edgetrt.types import Shape


class _Contexts(threading.local):
    """What this thread has pushed."""

    def __init__(self) -> None:
        self.pushed: list[CudaPythonDevice] = []


_here = _Contexts()


class CudaPythonDevice:
    """A GPU; opening it keeps its primary context alive until `close`.

    The context stays current after the last `pop` of a thread, until the thread takes another: a loop
    that pushes for every call pays for the first one only, and lets go of the interpreter less often.

    Raises:
        CudaError: no driver, no such GPU, or the driver refuses.
    """

    def __init__(self, ordinal: int = 0) -> None:
        self._cu = cu = bindings.load("driver")
        call("starting CUDA", cu.cuInit, 0)
        self._ordinal = call(f"opening GPU {ordinal}", cu.cuDeviceGet, ordinal)
        self._context = call(
            f"opening the context of GPU {ordinal}", cu.cuDevicePrimaryCtxRetain, self._ordinal
        )
        self._handle = int(self._context)
        self._driver = driver.load()
        self._open = True
        self.info = self._describe()
        self.push()
        try:
            self._least, self._greatest = call(
                "reading stream priorities", cu.cuCtxGetStreamPriorityRange
            )
        finally:
            self.pop()

    def push(self) -> None:
        """Make the context current in this thread."""
        self._driver.enter(self._handle)
        _here.pushed.append(self)

    def pop(self) -> None:
        """Take back the last `push` of this thread.

        Raises:
            CudaError: there was none.
        """
        if not _here.pushed:
            raise cuda_error("leaving the GPU's context", "CUDA_ERROR_INVALID_CONTEXT")
        _here.pushed.pop()
        if _here.pushed:
            self._driver.enter(_here.pushed[-1]._handle)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        free, total = call("reading the GPU's free memory", self._cu.cuMemGetInfo)
        return int(free), int(total)

    def buffer(self, nbytes: int) -> DeviceBuffer:
        """Device memory."""
        what = f"allocating {mebibytes(nbytes)} on the GPU"
        try:
            pointer = call(what, self._cu.cuMemAlloc, nbytes)
        except CudaError as error:
            raise self._with_memory(error, what) from error
        return DeviceBuffer(self._cu, int(pointer), nbytes)

    def host_buffer(self, shape: Shape, dtype: str) -> HostBuffer:
        """Page-locked, mapped host memory."""
        nbytes = max(1, int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
        what = f"allocating {mebibytes(nbytes)} of page-locked memory"
        flags = self._cu.CU_MEMHOSTALLOC_DEVICEMAP | self._cu.CU_MEMHOSTALLOC_PORTABLE
        try:
            address = int(call(what, self._cu.cuMemHostAlloc, nbytes, flags))
        except CudaError as error:
            raise self._with_memory(error, what) from error
        memory: Any = (ctypes.c_uint8 * nbytes).from_address(address)
        array: NDArray[np.generic] = np.ndarray(shape, dtype, memory)
        pointer = call("mapping page-locked memory", self._cu.cuMemHostGetDevicePointer, address, 0)
        return HostBuffer(self._cu, array, int(pointer), address)

    def stream(self, priority: int = 0) -> CudaStream:
        """Open a non-blocking stream; the priority is cut to what the GPU knows."""
        cut = min(max(priority, self._greatest), self._least)
        flag = int(self._cu.CUstream_flags.CU_STREAM_NON_BLOCKING)
        handle = call("opening a stream", self._cu.cuStreamCreateWithPriority, flag, cut)
        return CudaStream(self._cu, handle, self._driver, self._handle)

    def event(self, *, timing: bool = False, spin: bool = False) -> driver.DriverEvent:
        """Make an event whose waiters sleep or spin."""
        return driver.DriverEvent(self._driver, self._handle, timing=timing, spin=spin)

    def module(self, image: bytes) -> CudaModule:
        """Load a cubin or PTX."""
        return CudaModule(self._cu, call("loading kernels", self._cu.cuModuleLoadData, image))

    def close(self) -> None:
        """Let go of the primary context; may be called twice."""
        if self._open:
            self._open = False
            self._driver.leave(self._handle)
            call("closing the GPU", self._cu.cuDevicePrimaryCtxRelease, self._ordinal)

    def _with_memory(self, error: CudaError, what: str) -> CudaError:
        if error.status != "CUDA_ERROR_OUT_OF_MEMORY":
            return error
        free, total = self.memory()
        detail = f"{mebibytes(free)} of {mebibytes(total)} are free"
        return cuda_error(what, error.status, detail)

    def _describe(self) -> DeviceInfo:
        kinds = self._cu.CUdevice_attribute

        def attribute(name: str) -> int:
            kind = getattr(kinds, f"CU_DEVICE_ATTRIBUTE_{name}")
            return int(call(f"reading {name}", self._cu.cuDeviceGetAttribute, kind, self._ordinal))

        name = call("reading the GPU's name", self._cu.cuDeviceGetName, 128, self._ordinal)
        version = int(call("reading the driver's version", self._cu.cuDriverGetVersion))
        return DeviceInfo(
            name.split(b"\0")[0].decode(),
            (attribute("COMPUTE_CAPABILITY_MAJOR"), attribute("COMPUTE_CAPABILITY_MINOR")),
            (version // 1000, version % 1000 // 10),
            bool(attribute("INTEGRATED")),
        )


class DeviceBuffer:
    """Memory on the GPU."""

    def __init__(self, cu: Any, pointer: int, nbytes: int) -> None:
        self._cu = cu
        self.pointer = pointer
        self.nbytes = nbytes

    def close(self) -> None:
        """Free it; may be called twice."""
        pointer, self.pointer = self.pointer, 0
        if pointer:
            call("freeing GPU memory", self._cu.cuMemFree, pointer)


class HostBuffer:
    """Page-locked memory seen by both sides."""

    def __init__(
        self,
        cu: Any,
        array: NDArray[np.generic],
        pointer: int,
        address: int,
    ) -> None:
        self._cu = cu
        self._address = address
        self.array = array
        self.pointer = pointer

    def close(self) -> None:
        """Free it; may be called twice."""
        address, self._address = self._address, 0
        if address:
            call("freeing page-locked memory", self._cu.cuMemFreeHost, address)


class CudaStream:
    """Work in order."""

    def __init__(self, cu: Any, raw: Any, library: driver.Driver, context: int) -> None:
        self._cu = cu
        self._driver, self._context = library, context
        self.raw = raw
        self.handle = int(raw)

    def copy_in(self, pointer: int, array: NDArray[np.generic]) -> None:
        """Queue a copy from page-locked host memory to the device."""
        source = array.__array_interface__["data"][0]
        call(
            f"copying {mebibytes(array.nbytes)} to the GPU",
            self._cu.cuMemcpyHtoDAsync,
            pointer,
            source,
            array.nbytes,
            self.raw,
        )

    def copy_out(self, array: NDArray[np.generic], pointer: int) -> None:
        """Queue a copy from the device to page-locked host memory."""
        target = array.__array_interface__["data"][0]
        call(
            f"copying {mebibytes(array.nbytes)} from the GPU",
            self._cu.cuMemcpyDtoHAsync,
            target,
            pointer,
            array.nbytes,
            self.raw,
        )

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
        call("waiting for a stream", self._cu.cuStreamSynchronize, self.raw)

    def close(self) -> None:
        """Free it; may be called twice."""
        raw, self.raw = self.raw, None
        if raw is not None:
            call("closing a stream", self._cu.cuStreamDestroy, raw)


class CudaModule:
    """Compiled kernels."""

    def __init__(self, cu: Any, raw: Any) -> None:
        self._cu = cu
        self._raw = raw

    def bind(self, kernel: str, grid: Shape, block: Shape, arguments: bytes) -> CudaLaunch:
        """Prepare a launch."""
        what = f"finding kernel {kernel!r}"
        function = call(what, self._cu.cuModuleGetFunction, self._raw, kernel.encode())
        return CudaLaunch(self._cu, kernel, (function, *grid, *block, 0), arguments)

    def close(self) -> None:
        """Unload it; may be called twice."""
        raw, self._raw = self._raw, None
        if raw is not None:
            call("unloading kernels", self._cu.cuModuleUnload, raw)


class CudaLaunch:
    """A kernel with its arguments packed once; a launch passes two addresses."""

    def __init__(
        self,
        cu: Any,
        kernel: str,
        shape: tuple[Any, ...],
        arguments: bytes,
    ) -> None:
        self._cu = cu
        self._what = f"launching {kernel!r}"
        self._shape = shape
        self._bytes = ctypes.create_string_buffer(arguments, len(arguments))
        self._table = (ctypes.c_void_p * 1)(ctypes.addressof(self._bytes))
        self._parameters = ctypes.addressof(self._table)

    def enqueue(self, stream: Stream) -> None:
        """Queue it."""
        handle = stream.handle
        call(self._what, self._cu.cuLaunchKernel, *self._shape, handle, self._parameters, 0)
