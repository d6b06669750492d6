"""Stand-ins for every port: small, deterministic, and able to be told to fail."""

from __future__ import annotations

import asyncio
import ctypes
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import (
    CudaError,
    EdgetrtError,
    InferenceError,
    NotConnectedError,
    TransportError,
)
from edgetrt.ports import EndOfStream
from edgetrt.types import (
    ConnectionState,
    DeviceInfo,
    Exchange,
    Frame,
    Result,
    Shape,
    TensorSpec,
)

Compute = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]


def doubled(buffers: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """What a `FakeBackend` computes when not told otherwise: y = 2 x."""
    return {"y": buffers["x"] * 2}


class FakeBackend:
    """A backend whose network is a Python function.

    Args:
        name: of the backend.
        inputs: the network's inputs; a leading -1 becomes 1, as in the real ones.
        outputs: the network's outputs.
        compute: from the input buffers to arrays of the outputs' shapes.
        error: raised by `load` when given.
        delay_s: how long each `infer` takes.

    Attributes:
        fail_next: so many of the next runs raise InferenceError.
        loads: calls of `load` that succeeded.
        open: sessions, twins included, that are not closed yet.
    """

    version = "1.0"

    def __init__(
        self,
        name: str = "fake",
        inputs: tuple[TensorSpec, ...] = (TensorSpec("x", (-1, 4), "float32"),),
        outputs: tuple[TensorSpec, ...] = (TensorSpec("y", (1, 4), "float32"),),
        compute: Compute = doubled,
        error: EdgetrtError | None = None,
        delay_s: float = 0.0,
    ) -> None:
        self.name = name
        self.fail_next = 0
        self.loads = 0
        self.open = 0
        self.delay_s = delay_s
        self.compute = compute
        self.outputs = outputs
        self._inputs = inputs
        self._error = error

    def load(
        self, model: Path, threads: int = 0, shapes: Mapping[str, Shape] | None = None
    ) -> FakeSession:
        if self._error is not None:
            raise self._error
        self.loads += 1
        sizes = shapes or {}
        inputs = tuple(
            replace(spec, shape=sizes.get(spec.name, tuple(abs(size) for size in spec.shape)))
            for spec in self._inputs
        )
        return FakeSession(self, inputs)


class FakeSession:
    """A session of a `FakeBackend`; `infer` fails while the backend's `fail_next` lasts."""

    def __init__(self, backend: FakeBackend, inputs: tuple[TensorSpec, ...]) -> None:
        self.inputs = inputs
        self.outputs = backend.outputs
        self.buffers = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in inputs}
        self._results = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in self.outputs}
        self._backend: FakeBackend | None = backend
        backend.open += 1

    def infer(self) -> Mapping[str, NDArray[Any]]:
        backend = self._backend
        if backend is None:
            raise InferenceError("fake: the session is closed")
        if backend.fail_next > 0:
            backend.fail_next -= 1
            raise InferenceError("fake: told to fail")
        if backend.delay_s:
            time.sleep(backend.delay_s)
        for name, value in backend.compute(self.buffers).items():
            self._results[name][...] = value
        return self._results

    def twin(self) -> FakeSession:
        if self._backend is None:
            raise InferenceError("fake: the session is closed")
        return FakeSession(self._backend, self.inputs)

    def close(self) -> None:
        if self._backend is not None:
            self._backend.open -= 1
        self._backend = None


class FakeClock:
    """Time that moves only when told to, or when somebody sleeps.

    Args:
        oversleep_s: how much longer than asked for each sleep takes.
    """

    def __init__(self, oversleep_s: float = 0.0) -> None:
        self.now_ns = 1_000_000_000
        self.oversleep_s = oversleep_s

    def monotonic_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.advance(seconds + self.oversleep_s)

    def advance(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


TIMEOUT = "timeout"
"""In a `FakeSource`'s script: no frame came in time."""


class FakeSource:
    """A source that delivers what it was given.

    Args:
        script: in turn: a frame to give, `TIMEOUT`, or an error to raise; then the stream ends.
        live: as the port says.
    """

    def __init__(self, script: Iterable[Frame | str | Exception], live: bool = False) -> None:
        self._script = iter(script)
        self.live = live
        self.reconnects = 0
        self.closed = 0

    def read(self, timeout_s: float) -> Frame | None:
        item = EndOfStream() if self.closed else next(self._script, EndOfStream())
        if isinstance(item, Exception):
            raise item
        return None if isinstance(item, str) else item

    def close(self) -> None:
        self.closed += 1


class FakeSink:
    """A sink that remembers; refuses results while `full`."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.full = False
        self.closed = 0

    def put(self, result: Result) -> bool:
        if not self.full and not self.closed:
            self.results.append(result)
        return not self.full and not self.closed

    def close(self) -> None:
        self.closed += 1


class FakeDevice:
    """A GPU made of host memory: streams run late, when something waits for them.

    Device addresses are addresses of this process, so kernels compiled for the host work on them
    (tests/gpu/host_compiler.py). Everything but `push` wants a context pushed in its thread.

    Args:
        capacity: bytes of device memory.
        graphs: why nothing can be captured; empty when it can.
        integrated: as on a Jetson.

    Attributes:
        allocated: bytes of live device memory.
        allocations: buffers of both kinds made so far.
        open: handles of any kind that were not closed.
        lost: a status that every call from now on fails with.
        refuse_capture: captures fail.
        launches: graphs launched so far.
    """

    def __init__(self, capacity: int = 1 << 30, graphs: str = "", integrated: bool = False) -> None:
        self.info = DeviceInfo("Fake GPU", (8, 7), (12, 6), integrated, graphs)
        self.capacity = capacity
        self.allocated = self.allocations = self.open = self.launches = 0
        self.lost = ""
        self.refuse_capture = False
        self.closed = False
        self.now_ms = 0.0
        self._threads = threading.local()

    @property
    def depth(self) -> int:
        """Contexts pushed in this thread."""
        return getattr(self._threads, "depth", 0)

    def alive(self, what: str) -> None:
        if self.lost:
            raise CudaError(f"{what}: {self.lost}", "", self.lost, fatal=True)

    def check(self, what: str) -> None:
        self.alive(what)
        if not self.depth:
            status = "CUDA_ERROR_INVALID_CONTEXT"
            raise CudaError(f"{what}: {status}", "", status)

    def push(self) -> None:
        self._threads.depth = self.depth + 1

    def pop(self) -> None:
        if not self.depth:
            raise CudaError("pop: CUDA_ERROR_INVALID_CONTEXT", "", "CUDA_ERROR_INVALID_CONTEXT")
        self._threads.depth -= 1

    def memory(self) -> tuple[int, int]:
        self.check("memory")
        return self.capacity - self.allocated, self.capacity

    def buffer(self, nbytes: int) -> FakeBuffer:
        self.check("buffer")
        if self.allocated + nbytes > self.capacity:
            status = "CUDA_ERROR_OUT_OF_MEMORY"
            mib = [n / 2**20 for n in (nbytes, self.capacity - self.allocated)]
            raise CudaError(
                f"allocating {mib[0]:.1f} MiB: {status} ({mib[1]:.1f} MiB are free)", "", status
            )
        return FakeBuffer(self, np.full(nbytes, 0xA5, np.uint8), nbytes)

    def host_buffer(self, shape: Shape, dtype: str) -> FakeBuffer:
        self.check("host_buffer")
        return FakeBuffer(self, np.zeros(shape, dtype), 0)

    def stream(self, priority: int = 0) -> FakeStream:
        self.check("stream")
        return FakeStream(self)

    def event(self, *, timing: bool = False, spin: bool = False) -> FakeEvent:
        self.check("event")
        return FakeEvent(self)

    def module(self, image: bytes) -> FakeModule:
        self.check("module")
        return FakeModule(self, image)

    def close(self) -> None:
        self.closed = True


class FakeHandle:
    """What is opened on a `FakeDevice` and closed once."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.handle = id(self)
        self._open = True
        device.open += 1

    def close(self) -> None:
        self.device.check(f"closing a {type(self).__name__}")
        if self._open:
            self._open = False
            self.device.open -= 1
            self.released()

    def released(self) -> None:
        """Happens once, at the first `close`."""


class FakeBuffer(FakeHandle):
    """Device memory (`nbytes` count) or page-locked memory (they do not)."""

    def __init__(self, device: FakeDevice, array: NDArray[Any], nbytes: int) -> None:
        super().__init__(device)
        self.array = array
        self.nbytes = nbytes
        self.pointer: int = array.__array_interface__["data"][0]
        device.allocated += nbytes
        device.allocations += 1

    def released(self) -> None:
        self.device.allocated -= self.nbytes


class FakeStream(FakeHandle):
    """Keeps what is queued until somebody waits."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__(device)
        self.queue: list[Callable[[], object]] = []

    def add(self, work: Callable[[], object]) -> None:
        self.device.check("queueing")
        self.queue.append(work)

    def copy_in(self, pointer: int, array: NDArray[Any]) -> None:
        self.add(lambda: ctypes.memmove(pointer, array.ctypes.data, array.nbytes))

    def copy_out(self, array: NDArray[Any], pointer: int) -> None:
        self.add(lambda: ctypes.memmove(array.ctypes.data, pointer, array.nbytes))

    def record(self, event: FakeEvent) -> None:
        self.device.alive("recording an event")
        event.stream, event.over = self, False
        self.queue.append(event.happen)

    def follow(self, event: FakeEvent) -> None:
        self.add(event.wait)

    def capture(self, enqueue: Callable[[], None]) -> FakeGraph:
        waiting, self.queue = self.queue, []
        try:
            enqueue()
            captured = self.queue
        finally:
            self.queue = waiting
        if self.device.refuse_capture or self.device.info.graphs:
            status = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
            raise CudaError(f"ending a capture: {status}", "", status)
        return FakeGraph(self.device, captured)

    def synchronize(self) -> None:
        self.device.check("waiting for a stream")
        while self.queue:
            self.queue.pop(0)()


class FakeEvent(FakeHandle):
    """Happens when its stream gets there; each costs a millisecond."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__(device)
        self.stream: FakeStream | None = None
        self.over = True
        self.looks = 0
        self.at_ms = 0.0

    def happen(self) -> None:
        self.over = True
        self.device.now_ms += 1.0
        self.at_ms = self.device.now_ms

    def wait(self) -> None:
        self.device.alive("waiting for an event")
        while not self.over and self.stream is not None:
            self.stream.queue.pop(0)()

    def done(self) -> bool:
        """The second look finds it done, so that tests see both answers."""
        self.device.alive("asking for an event")
        self.looks += 1
        if self.looks % 2 == 0:
            self.wait()
        return self.over

    def since(self, start: FakeEvent) -> float:
        return self.at_ms - start.at_ms


class FakeGraph(FakeHandle):
    """Captured work."""

    def __init__(self, device: FakeDevice, work: list[Callable[[], object]]) -> None:
        super().__init__(device)
        self.work = work

    def launch(self, stream: FakeStream) -> None:
        self.device.alive("launching a graph")
        self.device.launches += 1
        stream.queue.extend(self.work)


class FakeModule(FakeHandle):
    """Kernels compiled for the host, as a shared library's bytes."""

    def __init__(self, device: FakeDevice, image: bytes) -> None:
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(image)
            file.flush()
            try:
                self._library = ctypes.CDLL(file.name)
            except OSError as error:
                status = "CUDA_ERROR_INVALID_IMAGE"
                raise CudaError(f"loading kernels: {status}", "", status) from error
        super().__init__(device)

    def bind(self, kernel: str, grid: Shape, block: Shape, arguments: bytes) -> FakeLaunch:
        function = getattr(self._library, f"launch_{kernel}", None)
        if function is None:
            status = "CUDA_ERROR_NOT_FOUND"
            raise CudaError(f"finding kernel {kernel!r}: {status}", "", status)
        return FakeLaunch(
            function, (ctypes.c_int * 3)(*grid), (ctypes.c_int * 3)(*block), arguments
        )


class FakeLaunch:
    """A kernel with its arguments."""

    def __init__(self, *call: Any) -> None:
        self._function, *self._arguments = call

    def enqueue(self, stream: FakeStream) -> None:
        grid, block, arguments = self._arguments
        stream.add(lambda: self._function(arguments, grid, block))


class FakeTransport:
    """A connection to a broker that lives in memory.

    Args:
        online: connected as soon as it is entered.
        refuse: topics that the broker does not let us publish to.

    Attributes:
        published: topic, payload and retain of what was acknowledged, in order.
        waiting: messages that were sent while `hold` was set; acknowledged by `release`.
        taken: messages that arrived and were dealt with.
        correlations: what came with the answers that were published, in order.
        hold: the broker acknowledges nothing for now.
    """

    def __init__(self, online: bool = True, refuse: tuple[str, ...] = ()) -> None:
        self.published: list[tuple[str, bytes, bool]] = []
        self.waiting: list[asyncio.Future[None]] = []
        self.hold = False
        self.taken = 0
        self.correlations: list[bytes] = []
        self._online = online
        self._refuse = refuse
        self._state = ConnectionState(False, "not connected yet")
        self._watchers: list[asyncio.Queue[ConnectionState]] = []
        self._inbox: asyncio.Queue[FakeMessage] = asyncio.Queue()

    @property
    def state(self) -> ConnectionState:
        return self._state

    async def __aenter__(self) -> FakeTransport:
        if self._online:
            self.go_online()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.go_offline("closed")

    def go_online(self) -> None:
        self._tell(ConnectionState(True))

    def go_offline(self, reason: str = "connection lost") -> None:
        self._tell(ConnectionState(False, reason))
        for answer in self.waiting:
            if not answer.done():
                answer.set_exception(NotConnectedError(reason))
        self.waiting.clear()

    def release(self) -> None:
        """Acknowledge what waits, and what comes."""
        self.hold = False
        for answer in self.waiting:
            if not answer.done():
                answer.set_result(None)
        self.waiting.clear()

    def deliver(self, topic: str, payload: bytes, **said: Any) -> None:
        self._inbox.put_nowait(FakeMessage(topic, payload, **said))

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        expiry_s: int | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        if not self._state.connected:
            raise NotConnectedError(f"publish to {topic}: {self._state.reason}")
        if topic in self._refuse:
            raise TransportError(f"publish to {topic}: the broker refused it")
        if self.hold:
            answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiting.append(answer)
            await answer
        self.published.append((topic, payload, retain))
        if exchange is not None:
            self.correlations.append(exchange.correlation)

    def post(
        self,
        topic: str,
        payload: bytes,
        done: Callable[[TransportError | None], None],
        *,
        retain: bool = False,
        expiry_s: int | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        if not self._state.connected:
            raise NotConnectedError(f"publish to {topic}: {self._state.reason}")
        loop = asyncio.get_running_loop()
        if topic in self._refuse:
            loop.call_soon(done, TransportError(f"publish to {topic}: the broker refused it"))
            return

        def answered(answer: asyncio.Future[None]) -> None:
            error = answer.exception()
            if error is None:
                self.published.append((topic, payload, retain))
                if exchange is not None:
                    self.correlations.append(exchange.correlation)
            done(error if isinstance(error, TransportError) else None)

        answer = loop.create_future()
        answer.add_done_callback(answered)
        if self.hold:
            self.waiting.append(answer)
        else:
            answer.set_result(None)

    async def messages(self) -> AsyncIterator[FakeMessage]:
        while True:
            yield await self._inbox.get()
            self.taken += 1

    async def states(self) -> AsyncIterator[ConnectionState]:
        changes: asyncio.Queue[ConnectionState] = asyncio.Queue()
        changes.put_nowait(self._state)
        self._watchers.append(changes)
        while True:
            yield await changes.get()

    def _tell(self, state: ConnectionState) -> None:
        if state != self._state:
            self._state = state
            for watcher in self._watchers:
                watcher.put_nowait(state)


class FakeMessage:
    """A message from a `FakeTransport`."""

    def __init__(
        self,
        topic: str,
        payload: bytes,
        retained: bool = False,
        expires_ns: int | None = None,
        exchange: Exchange = Exchange(),  # noqa: B008 - it is frozen
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.retained = retained
        self.expires_ns = expires_ns
        self.exchange = exchange
