"""Every port, on one page: what the middle asks of the rim.

Adapters need no base class. Each maps foreign exceptions to ours in one place and passes the
contract suite of its port in `tests/contracts/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edgetrt.types import Frame, Result, Shape, TensorSpec


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


class Transport(Protocol):
    """The connection to the fleet, an async context manager that keeps itself connected."""

    async def __aenter__(self) -> Transport:
        """Start connecting; returns at once."""

    async def __aexit__(self, *exc: object) -> None:
        """Say goodbye and disconnect."""

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = None
    ) -> None:
        """Publish with QoS 1 and wait for the acknowledgement.

        Raises:
            NotConnectedError: no connection now; nothing was queued.
            TransportError: the broker refused it.
        """

    def messages(self) -> AsyncIterator[Message]:
        """What arrives on the subscribed topics."""


class Units(Protocol):
    """The supervisor of processes: systemd, or the parent process where there is none."""

    def start(self, unit: str) -> None:
        """Start a unit; no effect when it runs."""

    def restart(self, unit: str) -> None:
        """Stop and start it."""

    def state(self, unit: str) -> str:
        """`active`, `inactive`, `activating` or `failed`."""
