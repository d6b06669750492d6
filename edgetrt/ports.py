"""Every port, on one page: what the middle asks of the rim.

Adapters need no base class. Each maps foreign exceptions to ours in one place and passes the
contract suite of its port in `tests/contracts/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edgetrt.errors import TransportError
    from edgetrt.types import (
        ConnectionState,
        DeviceInfo,
        Exchange,
        Frame,
        Result,
        Shape,
        TensorSpec,
        YuvColor,
    )


class EndOfStream(Exception):
    """A source that ends (a file, a folder) has delivered its last frame.

    No error, as StopIteration is none; so it stands outside our tree.
    """


class Session(Protocol):
    """A loaded engine with one execution context and tensors bound once.

    `buffers` are the input tensors themselves: write into them, then call `infer`. What `infer`
    returns are views, valid until the next `infer` of this session.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Input tensors in the network's order."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Output tensors in the network's order."""

    @property
    def buffers(self) -> Mapping[str, NDArray[np.generic]]:
        """Writable input tensors by name, C-contiguous, of the spec's shape and type."""

    def infer(self) -> Mapping[str, NDArray[np.generic]]:
        """Run once on what `buffers` hold.

        Raises:
            InferenceError: the backend refused or failed; outputs are not valid.
        """

    def twin(self) -> Session:
        """Make another execution context of the same engine, with buffers of its own."""

    def close(self) -> None:
        """Free the context and its buffers; may be called twice."""


@runtime_checkable
class OverlappingSession(Session, Protocol):
    """A session whose work can be left running: `infer` is `start`, then `wait`."""

    def start(self) -> None:
        """Hand the frame to the device and return; `buffers` must not be touched until `wait`.

        Raises:
            InferenceError: the backend refused it.
        """

    def wait(self) -> Mapping[str, NDArray[np.generic]]:
        """Sleep until what was started is done; returns what `infer` returns.

        Raises:
            InferenceError: it failed on the device.
        """


class Backend(Protocol):
    """A library that runs networks."""

    @property
    def name(self) -> str:
        """As written in a config's `backend:`."""

    @property
    def version(self) -> str:
        """Of the library."""

    def load(
        self, model: Path, threads: int = 0, shapes: Mapping[str, Shape] | None = None
    ) -> Session:
        """Load an engine or network file.

        Args:
            model: the file.
            threads: how many may compute; 0 leaves the choice to the library.
            shapes: sizes of inputs with dynamic dimensions, by name; a leading dynamic dimension (the
                batch) is 1 when not given. The session's specs carry the sizes that were chosen.

        Raises:
            ModelError: the file is missing, damaged or not for this backend.
            BackendError: the library cannot be used on this machine.
        """


class Device(Protocol):
    """One GPU, through its primary context. Every adapter gives handles as plain ints.

    A thread makes the context its own with `push` and gives it back with `pop`, around every use but
    those that say otherwise; pairs may be nested. All failures raise CudaError with CUDA's own name of
    the status.
    """

    @property
    def info(self) -> DeviceInfo:
        """What it is."""

    def push(self) -> None:
        """Make the context current in this thread."""

    def pop(self) -> None:
        """Take back the last `push` of this thread."""

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""

    def buffer(self, nbytes: int) -> DeviceBuffer:
        """Device memory; a failure says how much was asked for and how much is free."""

    def host_buffer(self, shape: Shape, dtype: str) -> HostBuffer:
        """Page-locked host memory that the device sees as well."""

    def stream(self, priority: int = 0) -> Stream:
        """Open a stream that does not wait for the default one; lower priorities go first."""

    def event(self, *, timing: bool = False, spin: bool = False) -> Event:
        """Make an event; waiting for it sleeps, or spins for a quicker answer at a core's cost."""

    def module(self, image: bytes) -> Module:
        """Load compiled kernels (a cubin, or PTX)."""

    def close(self) -> None:
        """Let go of the primary context; may be called twice."""


class DeviceBuffer(Protocol):
    """Memory that only the device sees."""

    @property
    def pointer(self) -> int:
        """Device address."""

    @property
    def nbytes(self) -> int:
        """How much."""

    def close(self) -> None:
        """Free it; may be called twice."""


class HostBuffer(Protocol):
    """Page-locked memory of the host, mapped into the device's address space."""

    @property
    def array(self) -> NDArray[np.generic]:
        """As the host sees it; must not be used after `close`."""

    @property
    def pointer(self) -> int:
        """Device address of the same bytes."""

    def close(self) -> None:
        """Free it; may be called twice."""


class Stream(Protocol):
    """Work for the device, done in order."""

    @property
    def handle(self) -> int:
        """CUDA's, for other libraries."""

    def copy_in(self, pointer: int, array: NDArray[np.generic]) -> None:
        """Queue a copy from page-locked host memory to the device."""

    def copy_out(self, array: NDArray[np.generic], pointer: int) -> None:
        """Queue a copy from the device to page-locked host memory."""

    def record(self, event: Event) -> None:
        """Let the event happen when everything queued so far is done; wants no `push`."""

    def follow(self, event: Event) -> None:
        """Queue nothing more before the event has happened."""

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """Record what `enqueue` queues on this stream, without running it.

        Raises:
            CudaError: something in it cannot be captured, or there is no library for graphs.
        """

    def synchronize(self) -> None:
        """Wait for everything queued so far."""

    def close(self) -> None:
        """Free it; may be called twice."""


class Event(Protocol):
    """A point in a stream."""

    def wait(self) -> None:
        """Sleep until it has happened; wants no `push`."""

    def done(self) -> bool:
        """Say at once whether it has happened; wants no `push`."""

    def since(self, start: Event) -> float:
        """Milliseconds from `start` to this one; both made with `timing`, both over."""

    def close(self) -> None:
        """Free it; may be called twice."""


class Graph(Protocol):
    """Captured work, replayed as a whole."""

    def launch(self, stream: Stream) -> None:
        """Queue it; wants no `push`."""

    def close(self) -> None:
        """Free it; may be called twice."""


class Module(Protocol):
    """Compiled kernels."""

    def bind(self, kernel: str, grid: Shape, block: Shape, arguments: bytes) -> Launch:
        """Prepare a launch of a kernel whose one parameter is a struct with these bytes."""

    def close(self) -> None:
        """Unload it; may be called twice."""


class Launch(Protocol):
    """A kernel with everything it needs."""

    def enqueue(self, stream: Stream) -> None:
        """Queue it."""


class Surface(Protocol):
    """A picture in memory that a camera shares with the GPU, lent until nobody refers to it.

    Attributes:
        shape: of the array that it is copied to.
        pitches: bytes from one row to the next, of each plane.
        color: how YUV is meant.
        memory: tells this memory from other memory, whatever it holds: cameras use a few in turn.
        stream: what opened the camera; opened anew, it has other memory.
    """

    shape: Shape
    pitches: tuple[int, ...]
    color: YuvColor
    memory: Hashable
    stream: object

    def __array__(self) -> NDArray[np.uint8]:
        """Copy it into the host's memory, once; raises SourceLostError."""

    def egl_image(self) -> tuple[int, Callable[[], None]]:
        """Make an EGL image (`EGLImageKHR`) of its memory, and what frees it; raises SourceLostError."""


class Source(Protocol):
    """Where frames come from. Wait before read: `read` gives the newest frame of a live source."""

    @property
    def live(self) -> bool:
        """True for cameras and streams, whose frames are lost when nobody reads them."""

    @property
    def reconnects(self) -> int:
        """How often it was lost and came back."""

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next frame, or None when none came in `timeout_s`.

        Raises:
            EndOfStream: the last frame has been delivered.
            SourceError: it cannot be read; SourceLostError when it was delivering before.
        """

    def close(self) -> None:
        """Release it; may be called twice and from another thread."""


class Sink(Protocol):
    """Where results go."""

    def put(self, result: Result) -> bool:
        """Take a result or drop it (False); never blocks for long, never raises."""

    def close(self) -> None:
        """Finish what was written; may be called twice."""


@runtime_checkable
class Recorder(Protocol):
    """A sink that keeps results, and counts those that it could not keep."""

    @property
    def lost(self) -> int:
        """Results that are gone for a fault; those left out because it was behind are none."""


class Clock(Protocol):
    """Time, so that tests need no waiting."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that never go back."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class Message(Protocol):
    """A message that arrived over a `Transport`."""

    @property
    def topic(self) -> str:
        """Where it was published."""

    @property
    def payload(self) -> bytes:
        """Its body, not yet trusted."""

    @property
    def retained(self) -> bool:
        """It was kept by the broker before we subscribed."""

    @property
    def expires_ns(self) -> int | None:
        """By the monotonic clock, when its sender gave it a life; None = never."""

    @property
    def exchange(self) -> Exchange:
        """Where an answer is asked for; empty when none is."""


class Transport(Protocol):
    """The connection to the fleet, an async context manager that keeps itself connected."""

    async def __aenter__(self) -> Transport:
        """Start connecting; returns at once."""

    async def __aexit__(self, *exc: object) -> None:
        """Say goodbye and disconnect."""

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        expiry_s: int | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        """Publish with QoS 1 and wait for the acknowledgement.

        Raises:
            NotConnectedError: no connection now; nothing was queued.
            TransportError: the broker refused it.
        """

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
        """Publish as `publish` does, without a task that waits; messages leave in this order.

        `done` is called once in the event loop: with None when the broker acknowledged it, with
        UnheardError when it did and nobody subscribes, else with the error that `publish` would raise.

        Raises:
            NotConnectedError: no connection now; `done` is not called.
        """

    def messages(self) -> AsyncIterator[Message]:
        """What arrives on the subscribed topics; acknowledged when the next one is asked for."""

    @property
    def state(self) -> ConnectionState:
        """Whether there is a connection now, and why not."""

    def states(self) -> AsyncIterator[ConnectionState]:
        """The state now and every change after it; each new connection is a change."""


class Units(Protocol):
    """The supervisor of processes: systemd, or the parent process where there is none."""

    def start(self, unit: str) -> None:
        """Start a unit; no effect when it runs."""

    def restart(self, unit: str) -> None:
        """Stop and start it."""

    def state(self, unit: str) -> str:
        """`active`, `inactive`, `activating` or `failed`."""
