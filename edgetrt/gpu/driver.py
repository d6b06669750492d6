"""The driver's calls of every frame, straight to libcuda: the same for handles of any library.

cuda-python and PyCUDA let go of the interpreter around every call, and each time a process with many
pipelines queues to get it back. What returns at once keeps the interpreter here (`ctypes.PyDLL`). Waiting
lets go of it, and so does launching a graph: whoever waits for the interpreter wakes up meanwhile, which
eight threads need (docs/gpu.md). None of this needs a `push` of the device: `enter` sees to it.

Names and arguments: https://docs.nvidia.com/cuda/cuda-driver-api/
"""

from __future__ import annotations

import ctypes
import threading
from functools import lru_cache
from typing import TYPE_CHECKING

from edgetrt.errors import CudaError
from edgetrt.gpu.status import cuda_error

if TYPE_CHECKING:
    from edgetrt.ports import Event

LIBRARY = "libcuda.so.1"

_NOT_READY = 600
_BLOCKING_SYNC, _DISABLE_TIMING = 1, 2

_Handle = ctypes.c_void_p
_HandleOut = ctypes.POINTER(ctypes.c_void_p)
_CALLS = {
    "cuCtxSetCurrent": (_Handle,),
    "cuEventCreate": (_HandleOut, ctypes.c_uint),
    "cuEventRecord": (_Handle, _Handle),
    "cuEventQuery": (_Handle,),
    "cuEventElapsedTime": (ctypes.POINTER(ctypes.c_float), _Handle, _Handle),
    "cuEventDestroy_v2": (_Handle,),
    "cuStreamWaitEvent": (_Handle, _Handle, ctypes.c_uint),
    "cuStreamBeginCapture_v2": (_Handle, ctypes.c_int),
    "cuStreamEndCapture": (_Handle, _HandleOut),
    "cuGraphInstantiateWithFlags": (_HandleOut, _Handle, ctypes.c_ulonglong),
    "cuGraphExecDestroy": (_Handle,),
    "cuGraphDestroy": (_Handle,),
    "cuGetErrorName": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}


class Driver:
    """libcuda of CUDA 11.4 or newer, which some library has started already.

    Raises:
        CudaError: it cannot be loaded, or is older than these calls.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            keeping, letting_go = ctypes.PyDLL(library), ctypes.CDLL(library)
            for name, kinds in _CALLS.items():
                getattr(keeping, name).argtypes = kinds
            letting_go.cuEventSynchronize.argtypes = (_Handle,)
            letting_go.cuGraphLaunch.argtypes = (_Handle, _Handle)
        except (OSError, AttributeError) as error:
            raise CudaError(
                f"the driver's library {library} cannot be used: {error}",
                "Install the NVIDIA driver, or make it visible in this container.",
                "CUDA_ERROR_NOT_INITIALIZED",
            ) from error
        self.cu = keeping
        self.synchronize = letting_go.cuEventSynchronize
        self.launch = letting_go.cuGraphLaunch
        self._here = _Current()

    def enter(self, context: int) -> None:
        """Make a context current in this thread, where it stays until the thread takes another."""
        if self._here.context != context:
            self.check("taking the GPU's context", self.cu.cuCtxSetCurrent(context))
            self._here.context = context

    def leave(self, context: int) -> None:
        """Let go of a context that is about to end."""
        if self._here.context == context:
            self.enter(0)

    def check(self, what: str, status: int) -> None:
        """Raise what a status means.

        Raises:
            CudaError: any but success.
        """
        if status:
            name = ctypes.c_char_p()
            self.cu.cuGetErrorName(status, ctypes.byref(name))
            raise cuda_error(what, (name.value or b"CUDA_ERROR_UNKNOWN").decode())


class _Current(threading.local):
    """What `enter` made current in this thread."""

    context = 0


@lru_cache(maxsize=2)
def load(library: str = LIBRARY) -> Driver:
    """Load the driver's library once."""
    return Driver(library)


class DriverEvent:
    """A point in a stream of any library; made with its context current.

    Args:
        driver: whose.
        context: in which.
        timing: it can be compared with others; costs a little.
        spin: waiting keeps a core busy.

    Raises:
        CudaError: the driver refuses.
    """

    def __init__(self, driver: Driver, context: int, *, timing: bool, spin: bool) -> None:
        self._driver, self._context = driver, context
        handle = ctypes.c_void_p()
        flags = (0 if spin else _BLOCKING_SYNC) | (0 if timing else _DISABLE_TIMING)
        driver.check("making an event", driver.cu.cuEventCreate(ctypes.byref(handle), flags))
        self.handle = handle.value or 0

    def wait(self) -> None:
        """Sleep (or spin) until it has happened."""
        self._driver.enter(self._context)
        status = self._driver.synchronize(self.handle)
        if status:
            self._driver.check("waiting for the GPU", status)

    def done(self) -> bool:
        """Say whether it has happened, at once."""
        self._driver.enter(self._context)
        status: int = self._driver.cu.cuEventQuery(self.handle)
        if status and status != _NOT_READY:
            self._driver.check("asking the GPU", status)
        return not status

    def record(self, stream: int) -> None:
        """Let it happen when everything queued on the stream so far is done."""
        self._driver.enter(self._context)
        status = self._driver.cu.cuEventRecord(self.handle, stream)
        if status:
            self._driver.check("recording an event", status)

    def hold(self, stream: int) -> None:
        """Let nothing more of the stream run before it has happened."""
        status = self._driver.cu.cuStreamWaitEvent(stream, self.handle, 0)
        self._driver.check("ordering two streams", status)

    def since(self, start: Event) -> float:
        """Milliseconds from `start` to this one."""
        out = ctypes.c_float()
        arguments = ctypes.byref(out), own(start).handle, self.handle
        self._driver.check("reading a time", self._driver.cu.cuEventElapsedTime(*arguments))
        return out.value

    def close(self) -> None:
        """Free it; may be called twice."""
        handle, self.handle = self.handle, 0
        if handle:
            self._driver.check("freeing an event", self._driver.cu.cuEventDestroy_v2(handle))


def own(event: Event) -> DriverEvent:
    """Take an event for one of these.

    Raises:
        CudaError: it is another device's.
    """
    if not isinstance(event, DriverEvent):
        raise CudaError(f"an event of another kind ({type(event).__name__}) on a CUDA stream")
    return event
