"""A session over any engine that runs on a CUDA stream: buffers, order, graphs, waiting.

The backend brings the engine as an `Execution`; everything about the GPU goes through the `Device` port.
A frame is: what leads (the fused preprocessing, or copies in) - the engine - copies out - an event.
After a first ordinary run all of it is captured into one CUDA graph, where that is allowed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

from edgetrt.errors import CudaError, InferenceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from edgetrt.ports import (
        Clock,
        Device,
        DeviceBuffer,
        Graph,
        HostBuffer,
        OverlappingSession,
        Stream,
    )
    from edgetrt.types import TensorSpec

log = logging.getLogger(__name__)

Memory = Literal["mapped", "copied"]


class Execution(Protocol):
    """One execution context of an engine, with static shapes."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Input tensors."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Output tensors."""

    @property
    def no_graph(self) -> str:
        """Why its work cannot be captured; empty when it can be tried."""

    def bind(self, name: str, pointer: int) -> None:
        """Say where a tensor lies on the device."""

    def enqueue(self, stream: int) -> None:
        """Queue one inference.

        Raises:
            InferenceError: it was refused.
        """

    def twin(self) -> Execution:
        """Make another context of the same engine."""

    def close(self) -> None:
        """Free the context; may be called twice."""


class Leading(Protocol):
    """Work that fills an input tensor on the device ahead of the engine."""

    @property
    def key(self) -> int:
        """Changes when what is queued changes, so that it is captured again."""

    def enqueue(self, stream: Stream) -> None:
        """Queue it."""


@dataclass(frozen=True)
class SessionOptions:
    """How a session uses the GPU.

    Attributes:
        memory: `mapped` gives the engine page-locked host memory to read and write; `copied` copies
            to and from device memory. `choose_memory` measures which is faster.
        graphs: capture frames into CUDA graphs.
        priority: of the stream; lower goes first.
        spin: wait for the GPU on the processor; quicker by a wake-up, at the cost of a core.
    """

    memory: Memory = "copied"
    graphs: bool = True
    priority: int = 0
    spin: bool = False


class DeviceSession:
    """The `Session` of an engine on a GPU; `start` and `wait` let frames of twins overlap.

    `graph_status` says whether frames are replayed, and if not, why.

    Raises:
        CudaError: no memory, or another refusal of the device.
        InferenceError: the engine refuses its tensors.
    """

    def __init__(
        self, device: Device, execution: Execution, options: SessionOptions | None = None
    ) -> None:
        self.inputs, self.outputs = execution.inputs, execution.outputs
        self._device, self._execution = device, execution
        self._options = options or SessionOptions()
        self._host: dict[str, HostBuffer] = {}
        self._on_device: dict[str, DeviceBuffer] = {}
        self._leading: dict[str, Leading] = {}
        self._graphs: dict[tuple[int, ...], Graph] = {}
        self._warm: set[tuple[int, ...]] = set()
        self._closers: list[Callable[[], None]] = []
        self._running = False
        refusal = device.info.graphs or execution.no_graph
        self.graph_status = refusal if self._options.graphs else "switched off"
        device.push()
        try:
            self._allocate()
        except BaseException:
            self._free()
            raise
        finally:
            device.pop()
        self.buffers = MappingProxyType({s.name: self._host[s.name].array for s in self.inputs})
        self._answers = MappingProxyType({s.name: self._host[s.name].array for s in self.outputs})

    def infer(self) -> Mapping[str, NDArray[np.generic]]:
        """Run once; the views stay valid until the next inference."""
        self.start()
        return self.wait()

    def start(self) -> None:
        """Queue one frame and return."""
        self._device.push()
        try:
            key = tuple(leading.key for leading in self._leading.values())
            graph = self._graphs.get(key)
            if graph is None and key in self._warm and not self.graph_status:
                graph = self._capture(key)
            if graph is not None:
                graph.launch(self._stream)
            else:
                self._enqueue()
                self._warm.add(key)
            self._stream.record(self._done)
            self._running = True
        finally:
            self._device.pop()

    def wait(self) -> Mapping[str, NDArray[np.generic]]:
        """Sleep until the frame is done."""
        self._device.push()
        try:
            self._done.wait()
            self._running = False
        finally:
            self._device.pop()
        return self._answers

    def pointer(self, name: str) -> int:
        """Device address from which the engine reads an input that `lead` fills."""
        if name not in self._on_device:
            spec = next(s for s in self.inputs if s.name == name)
            self._device.push()
            try:
                self._move_in(spec, self._device.buffer(self._host[spec.name].array.nbytes))
            finally:
                self._device.pop()
        return self._on_device[name].pointer

    def lead(self, name: str, leading: Leading) -> None:
        """Let `leading` fill an input on the device, in place of what `buffers` hold."""
        self.pointer(name)
        self._leading[name] = leading

    def twin(self) -> DeviceSession:
        """Another context, stream and buffers over the same engine."""
        self._device.push()
        try:
            execution = self._execution.twin()
        finally:
            self._device.pop()
        return DeviceSession(self._device, execution, self._options)

    def close(self) -> None:
        """Free everything; may be called twice."""
        self._device.push()
        try:
            self._free()
        finally:
            self._device.pop()

    def _allocate(self) -> None:
        self._closers.append(self._execution.close)
        self._stream = self._device.stream(self._options.priority)
        self._closers.append(self._stream.close)
        self._done = self._device.event(spin=self._options.spin)
        self._closers.append(self._done.close)
        for spec in (*self.inputs, *self.outputs):
            host = self._host[spec.name] = self._device.host_buffer(spec.shape, spec.dtype)
            self._closers.append(host.close)
            if self._options.memory == "copied":
                self._move_in(spec, self._device.buffer(max(1, host.array.nbytes)))
            else:
                self._execution.bind(spec.name, host.pointer)

    def _move_in(self, spec: TensorSpec, buffer: DeviceBuffer) -> None:
        """Let the engine use device memory for a tensor."""
        self._on_device[spec.name] = buffer
        self._closers.append(buffer.close)
        self._execution.bind(spec.name, buffer.pointer)

    def _enqueue(self) -> None:
        """Queue a frame piece by piece."""
        stream, on_device = self._stream, self._on_device
        for spec in self.inputs:
            leading = self._leading.get(spec.name)
            if leading is not None:
                leading.enqueue(stream)
            elif spec.name in on_device:
                stream.copy_in(on_device[spec.name].pointer, self._host[spec.name].array)
        self._execution.enqueue(stream.handle)
        for spec in self.outputs:
            if spec.name in on_device:
                stream.copy_out(self._host[spec.name].array, on_device[spec.name].pointer)

    def _capture(self, key: tuple[int, ...]) -> Graph | None:
        """Record a frame; on failure say why once and go on without graphs."""
        try:
            graph = self._graphs[key] = self._stream.capture(self._enqueue)
        except (CudaError, InferenceError) as error:
            if isinstance(error, CudaError) and error.fatal:
                raise
            self.graph_status = f"capture failed: {error.message}"
            log.warning("running without CUDA graphs: %s", error.message)
            return None
        self._closers.append(graph.close)
        return graph

    def _free(self) -> None:
        """Free in reverse order; a lost context frees nothing and must not hide what lost it."""
        if self._running:
            self._closers.append(self._stream.synchronize)
            self._running = False
        while self._closers:
            try:
                self._closers.pop()()
            except CudaError as error:
                if not error.fatal:
                    raise
                log.warning("could not be freed: %s", error.message)


@dataclass(frozen=True)
class MemoryChoice:
    """What a measurement of both kinds of memory said, for the engine's manifest."""

    memory: Memory
    mapped_ms: float
    copied_ms: float


def choose_memory(
    load: Callable[[Memory], OverlappingSession], clock: Clock, frames: int = 50
) -> MemoryChoice:
    """Run an engine with mapped and with copied buffers, and take the faster (copied when equal).

    Args:
        load: opens the engine with the kind of memory; what it returns is closed here.
        clock: time.
        frames: timed inferences of each; the median counts.
    """

    def median_ms(memory: Memory) -> float:
        session = load(memory)
        try:
            for _ in range(3):
                session.infer()
            times = []
            for _ in range(frames):
                start = clock.monotonic_ns()
                session.infer()
                times.append(clock.monotonic_ns() - start)
        finally:
            session.close()
        return sorted(times)[len(times) // 2] / 1e6

    copied, mapped = median_ms("copied"), median_ms("mapped")
    return MemoryChoice("mapped" if mapped < copied else "copied", mapped, copied)
