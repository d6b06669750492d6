"""CUDA graphs through cuda-python, on streams of any library: handles are ints.

A graph replays what was captured with the addresses of that moment, in one launch. Capture after one
ordinary run, which lets libraries allocate what they need; nothing may be allocated while capturing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgetrt.errors import CudaError
from edgetrt.gpu import bindings

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetrt.ports import Stream


def missing() -> str:
    """Why there are no graphs in this environment; empty when there are."""
    try:
        bindings.load("driver")
    except CudaError as error:
        return error.message
    return ""


class CapturedGraph:
    """An instantiated graph."""

    def __init__(self, handle: Any) -> None:
        self._handle: Any | None = handle
        self._driver = bindings.load("driver")
        self._streams: dict[int, Any] = {}

    def launch(self, stream: Stream) -> None:
        """Queue it."""
        handle = stream.handle
        known = self._streams.get(handle)
        if known is None:
            known = self._streams[handle] = self._driver.CUstream(handle)
        bindings.call("launching a graph", self._driver.cuGraphLaunch, self._handle, known)

    def close(self) -> None:
        """Free it; may be called twice."""
        handle, self._handle = self._handle, None
        if handle is not None:
            bindings.call("freeing a graph", self._driver.cuGraphExecDestroy, handle)


def capture(handle: int, enqueue: Callable[[], None]) -> CapturedGraph:
    """Record what `enqueue` queues on the stream, in a mode that leaves other threads alone.

    Raises:
        CudaError: it cannot be captured; the stream is usable again.
    """
    driver = bindings.load("driver")
    stream = driver.CUstream(handle)
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    bindings.call("starting a capture", driver.cuStreamBeginCapture, stream, mode)
    try:
        enqueue()
    except BaseException:
        _abandon(driver, stream)
        raise
    graph = bindings.call("ending a capture", driver.cuStreamEndCapture, stream)
    try:
        instantiated = bindings.call(
            "instantiating a graph", driver.cuGraphInstantiate, graph, *_no_flags(driver)
        )
    finally:
        bindings.call("freeing a captured graph", driver.cuGraphDestroy, graph)
    return CapturedGraph(instantiated)


def _abandon(driver: Any, stream: Any) -> None:
    """Leave capture mode after a failure; the graph that comes out, if any, is worth nothing."""
    try:
        graph = bindings.call("ending a capture", driver.cuStreamEndCapture, stream)
        if int(graph):
            bindings.call("freeing a captured graph", driver.cuGraphDestroy, graph)
    except CudaError as error:
        if error.fatal:
            raise


def _no_flags(driver: Any) -> tuple[object, ...]:
    """CUDA 11's instantiate takes a log buffer where later ones take flags."""
    return (0,) if driver.CUDA_VERSION >= 12000 else (b"", 0)
