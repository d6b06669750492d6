"""A session over any engine that runs on a CUDA stream: buffers, order, graphs, waiting.

The backend brings the engine as an `Execution`; everything about the GPU goes through the `Device` port.
A frame is: what leads (the fused preprocessing, or copies in) - the engine - what trails (a filter, or
copies out) - an event. After a first ordinary run all of it is captured into one CUDA graph, where that
is allowed.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

from edgetrt.backends.rhythm import CONTENDED_NS, PATIENCE_NS, Rhythm
from edgetrt.errors import CudaError, InferenceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from edgetrt.ports import Device, DeviceBuffer, Graph, HostBuffer, Stream
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
        """Changes when what `enqueue` queues changes, so that it is captured again."""

    def ahead(self, stream: Stream) -> None:
        """Queue what differs from frame to frame, outside of any graph; pushes the device itself."""

    def enqueue(self, stream: Stream) -> None:
        """Queue the rest."""


class Trailing(Protocol):
    """Work that reads an output on the device behind the engine, in place of a copy of the whole."""

    def enqueue(self, stream: Stream) -> None:
        """Queue it."""

    def read(self) -> NDArray[np.generic]:
        """What it found, once the stream has got past it."""

    def close(self) -> None:
        """Free what it holds; may be called twice."""


@dataclass(frozen=True)
class SessionOptions:
    """How a session uses the GPU.

    Attributes:
        memory: `mapped` gives the engine page-locked host memory to read and write; `copied` copies
            to and from device memory. `choose_memory` measures which is faster.
        graphs: capture frames into CUDA graphs.
        priority: of the stream; lower goes first.
        spin: wait for the GPU on the processor all the time; quicker by a wake-up, at the cost of a core.
            Without it a thread sleeps until shortly before the frame's usual end (`rhythm`).
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
        self._trailing: dict[str, Trailing] = {}
        self._rhythm = Rhythm()
        self._graphs: dict[tuple[int, ...], Graph] = {}
        self._warm: set[tuple[int, ...]] = set()
        self._closers: list[Callable[[], None]] = []
        self._running, self._replayed, self._started = False, False, 0
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
        self._found = {s.name: self._host[s.name].array for s in self.outputs}
        self._answers = MappingProxyType(self._found)

    def infer(self) -> Mapping[str, NDArray[np.generic]]:
        """Run once; the views stay valid until the next inference."""
        self.start()
        return self.wait()

    def start(self) -> None:
        """Queue one frame and return."""
        for leading in self._leading.values():
            leading.ahead(self._stream)
        key = tuple([leading.key for leading in self._leading.values()])
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._first(key)
        self._replayed, self._started = graph is not None, time.monotonic_ns()
        if graph is not None:
            graph.launch(self._stream)
        self._stream.record(self._done)
        self._running = True

    def wait(self) -> Mapping[str, NDArray[np.generic]]:
        """Sleep until the frame is done."""
        if self._options.spin:
            self._done.wait()
        elif self._replayed and self._rhythm.look_out():
            self._look_out()  # what is queued piece by piece takes a time of its own
        elif not self._done.done():
            self._sleep()
        self._running = False
        for name, trailing in self._trailing.items():
            self._found[name] = trailing.read()
        return self._answers

    def pointer(self, name: str) -> int:
        """Device address of an input that `lead` fills, or of an output that `trail` reads."""
        if name not in self._on_device:
            spec = next(s for s in (*self.inputs, *self.outputs) if s.name == name)
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

    def trail(self, name: str, trailing: Trailing) -> None:
        """Let `trailing` read an output on the device: what it finds takes the output's place in answers.

        The session closes it.
        """
        self.pointer(name)
        self._trailing[name] = trailing
        self._closers.append(trailing.close)

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

    def _look_out(self) -> None:
        """Sleep until shortly before the frame's usual end, then ask for a while; see `rhythm`."""
        done, rhythm = self._done.done, self._rhythm
        if done():
            return
        now = time.monotonic_ns()
        nap_ns = rhythm.sleep_ns(now - self._started)
        if nap_ns:
            time.sleep(nap_ns / 1e9)
            if done():
                rhythm.overslept()
                return
            now = time.monotonic_ns()
        end = now + PATIENCE_NS
        while not done():
            before = time.monotonic_ns()
            os.sched_yield()  # lets go of the interpreter too
            now = time.monotonic_ns()
            if now - before > CONTENDED_NS:
                rhythm.give_way()
                self._sleep()
                return
            if now >= end:
                self._sleep()
                now = time.monotonic_ns()
        rhythm.learn(now - self._started)

    def _sleep(self) -> None:
        """Let the driver wake this thread; nothing was queued behind the frame meanwhile.

        An event that wakes somebody costs an interrupt and a turn of the driver's own thread, even when
        nobody sleeps: so it is recorded for those who will.
        """
        self._stream.record(self._waking)
        self._waking.wait()

    def _allocate(self) -> None:
        self._closers.append(self._execution.close)
        self._stream = self._device.stream(self._options.priority)
        self._closers.append(self._stream.close)
        self._done = self._device.event(spin=True)
        self._closers.append(self._done.close)
        self._waking = self._device.event()
        self._closers.append(self._waking.close)
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
            trailing = self._trailing.get(spec.name)
            if trailing is not None:
                trailing.enqueue(stream)
            elif spec.name in on_device:
                stream.copy_out(self._host[spec.name].array, on_device[spec.name].pointer)

    def _first(self, key: tuple[int, ...]) -> Graph | None:
        """Queue a frame of a kind that has no graph; the second one is captured instead and given back."""
        self._device.push()
        try:
            if key in self._warm and not self.graph_status:
                graph = self._capture(key)
                if graph is not None:
                    return graph
            self._enqueue()
            self._warm.add(key)
            return None
        finally:
            self._device.pop()

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
