"""CUDA graphs on streams of any library: handles are ints, and the driver is asked directly.

A graph replays what was captured with the addresses of that moment, in one launch. Capture after one
ordinary run, which lets libraries allocate what they need; nothing may be allocated while capturing.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from edgetrt.errors import CudaError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetrt.gpu.driver import Driver
    from edgetrt.ports import Stream

_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do meanwhile is left alone."""


class CapturedGraph:
    """An instantiated graph."""

    def __init__(self, driver: Driver, context: int, handle: int) -> None:
        self._driver, self._context, self._handle = driver, context, handle

    def launch(self, stream: Stream) -> None:
        """Queue it, in one call."""
        self._driver.enter(self._context)
        status = self._driver.launch(self._handle, stream.handle)
        if status:
            self._driver.check("launching a graph", status)

    def close(self) -> None:
        """Free it; may be called twice."""
        handle, self._handle = self._handle, 0
        if handle:
            self._driver.check("freeing a graph", self._driver.cu.cuGraphExecDestroy(handle))


def capture(
    driver: Driver, context: int, stream: int, enqueue: Callable[[], None]
) -> CapturedGraph:
    """Record what `enqueue` queues on the stream.

    Raises:
        CudaError: it cannot be captured; the stream is usable again.
    """
    cu, check = driver.cu, driver.check
    check("starting a capture", cu.cuStreamBeginCapture_v2(stream, _THREAD_LOCAL))
    try:
        enqueue()
    except BaseException:
        _abandon(driver, stream)
        raise
    graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
    check("ending a capture", cu.cuStreamEndCapture(stream, ctypes.byref(graph)))
    try:
        status = cu.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, 0)
        check("instantiating a graph", status)
    finally:
        check("freeing a captured graph", cu.cuGraphDestroy(graph))
    return CapturedGraph(driver, context, executable.value or 0)


def _abandon(driver: Driver, stream: int) -> None:
    """Leave capture mode after a failure; the graph that comes out, if any, is worth nothing."""
    graph = ctypes.c_void_p()
    try:
        driver.check("ending a capture", driver.cu.cuStreamEndCapture(stream, ctypes.byref(graph)))
        if graph.value:
            driver.check("freeing a captured graph", driver.cu.cuGraphDestroy(graph))
    except CudaError as error:
        if error.fatal:
            raise
