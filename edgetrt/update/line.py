"""The way from the thread of updates to whoever serves the repository over the broker, and back.

Requests leave and chunks arrive in another thread, that of the agent's event loop. It only puts what
it was asked for into a queue; everything else that arrives is dropped there.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
from collections.abc import Callable, Iterator

from edgetrt.errors import TransportError, UnheardError, UnreachableError

Failed = Callable[[TransportError], None]

Post = Callable[[bytes, bytes, Failed], None]
"""Takes a request and its correlation data, and sends it; never waits. Tells when it could not."""

_SERVE = "Is `edgetrt release serve` running beside the repository?"


class Line:
    """Belongs to the agent's connection; any number of calls use it at a time.

    Attributes:
        strays: chunks that nobody waits for: late, repeated, or never asked for.
    """

    def __init__(self) -> None:
        self.strays = 0
        self._lock = threading.Lock()
        self._calls: dict[bytes, Call] = {}
        self._post: Post | None = None

    def connect(self, post: Post) -> None:
        """Say how requests leave."""
        self._post = post

    def take(self, correlation: bytes, payload: bytes) -> None:
        """Take a chunk that arrived. Never waits."""
        with self._lock:
            call = self._calls.pop(correlation, None)
        if call is None:
            self.strays += 1
        else:
            call.put(correlation, payload)

    @contextlib.contextmanager
    def call(self) -> Iterator[Call]:
        """Ask for something; what was asked for and did not come is forgotten at the end."""
        call = Call(self)
        try:
            yield call
        finally:
            with self._lock:
                self._calls = {key: one for key, one in self._calls.items() if one is not call}

    def send(self, call: Call, payload: bytes) -> bytes:
        """Send a request; returns its correlation data.

        Raises:
            UnreachableError: there is no agent.
        """
        if self._post is None:
            raise UnreachableError(
                "mqtt: only a running agent fetches over the broker", "Start it.", "unreachable"
            )
        correlation = secrets.token_bytes(16)
        with self._lock:
            self._calls[correlation] = call
        self._post(payload, correlation, lambda error: self._fail(correlation, error))
        return correlation

    def _fail(self, correlation: bytes, error: TransportError) -> None:
        with self._lock:
            call = self._calls.pop(correlation, None)
        if call is not None:
            call.put(correlation, error)


class Call:
    """Requests of one file. There are never more answers here than requests."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._came: queue.SimpleQueue[tuple[bytes, bytes | TransportError]] = queue.SimpleQueue()

    def ask(self, payload: bytes) -> bytes:
        """Send a request; raises as `Line.send`."""
        return self._line.send(self, payload)

    def answer(self, timeout_s: float) -> tuple[bytes, bytes] | None:
        """Wait for an answer to any of them: its correlation data and what it says; None = too late.

        Raises:
            UnreachableError: a request did not reach anybody.
        """
        try:
            correlation, said = self._came.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(said, UnheardError):
            raise UnreachableError(
                "mqtt: nobody at this broker serves the repository", _SERVE, "unreachable"
            )
        if isinstance(said, TransportError):
            raise UnreachableError(f"mqtt: {said.message}", said.hint, "lost")
        return correlation, said

    def put(self, correlation: bytes, said: bytes | TransportError) -> None:
        """What came of a request; called from the other thread."""
        self._came.put((correlation, said))
