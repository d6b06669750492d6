"""The local link: Unix datagrams between runtime and agent.

Message boundaries come for free, there is no reconnect logic, and a sender never waits. A datagram
that is not taken is dropped and counted: by the sender when it did not leave, by the receiver when it
was too long.
"""

from __future__ import annotations

import contextlib
import select
import socket
import stat
import threading
import time
from collections import deque
from pathlib import Path

from edgetrt.errors import TransportError

MAX_DATAGRAM = 200 * 1024
"""Bytes. Linux takes a little less than its default send buffer of 208 KiB."""

_BUFFER = 4 * 1024 * 1024
_MODE = 0o660
_BUSY = "the peer's queue is full"


class Sender:
    """Sends datagrams to whoever serves `path` now; the peer may come, go and restart.

    The kernel queues only a few datagrams (`net.unix.max_dgram_qlen`, often 10), less than a busy
    machine needs to wake the peer. What finds that queue full waits here, in order, for the next
    `send`. Threads may share a sender.

    Args:
        path: of the peer's socket.
        backlog: datagrams that wait here at most.

    Attributes:
        dropped: datagrams that were not taken.
        reason: why the last one was not, in the system's words; empty after a success.
    """

    def __init__(self, path: Path, backlog: int = 256) -> None:
        self.path = path
        self.dropped = 0
        self.reason = ""
        self._address = _address(path)
        self._limit = backlog
        self._backlog: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)

    def send(self, payload: bytes) -> bool:
        """Take a datagram or drop it (False): no peer, no room, or more than `MAX_DATAGRAM`."""
        with self._lock:
            if len(payload) > MAX_DATAGRAM:
                self.reason = f"{len(payload)} bytes, at most {MAX_DATAGRAM} fit"
                self.dropped += 1
                return False
            self._backlog.append(payload)
            if self._push() or (self.reason == _BUSY and len(self._backlog) <= self._limit):
                return True
            # The newest goes, because the ones before it were promised.
            self._backlog.pop()
            self.dropped += 1
            return False

    def close(self, timeout_s: float = 0.5) -> None:
        """Hand over what waits, then free the socket; later sends are dropped. May be repeated."""
        deadline = time.monotonic() + timeout_s
        while not self.flush() and self.reason == _BUSY and time.monotonic() < deadline:
            time.sleep(0.002)
        with self._lock:
            self.dropped += len(self._backlog)
            self._backlog.clear()
            self._socket.close()

    def flush(self) -> bool:
        """Hand over what waits; True when nothing is left. Every `send` does so, too."""
        with self._lock:
            return self._push()

    def _push(self) -> bool:
        """Send what waits, oldest first; True when nothing is left."""
        self.reason = ""
        while self._backlog:
            try:
                # By name each time, so that a restarted peer is found without a reconnect.
                self._socket.sendto(self._backlog[0], self._address)
            except BlockingIOError:
                self.reason = _BUSY
                return False
            except OSError as error:
                self.reason = error.strerror or str(error)
                return False
            self._backlog.popleft()
        return True

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Receiver:
    """Serves `path`: a stale socket there is replaced, a live one is refused.

    Attributes:
        refused: datagrams longer than `MAX_DATAGRAM`.

    Raises:
        TransportError: another process serves the path, or the path cannot be bound.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.refused = 0
        self._buffer = bytearray(MAX_DATAGRAM)
        self._view = memoryview(self._buffer)
        address = _address(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            _make_room(path, address)
            self._socket.bind(address)
            path.chmod(_MODE)
            self._inode = path.stat().st_ino
        except OSError as error:
            self._socket.close()
            raise TransportError(
                f"local link {path}: cannot be bound: {error.strerror}",
                "The folder must exist and be writable by this user.",
            ) from error
        except TransportError:
            self._socket.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def fileno(self) -> int:
        """The descriptor, for a selector or an event loop."""
        return self._socket.fileno()

    def receive(self, timeout_s: float = 0.0) -> bytes | None:
        """Return the next datagram, or None when none came in `timeout_s` or it was too long."""
        if timeout_s > 0 and not self._poll.poll(timeout_s * 1e3):
            return None
        try:
            # With MSG_TRUNC the length is the sender's, also when the rest was cut off.
            length = self._socket.recv_into(self._buffer, 0, socket.MSG_TRUNC)
        except (BlockingIOError, InterruptedError):
            return None
        if length > MAX_DATAGRAM:
            self.refused += 1
            return None
        return bytes(self._view[:length])

    def close(self) -> None:
        """Free the socket and remove its name, unless another took it; may be called twice."""
        if self._socket.fileno() < 0:
            return
        self._socket.close()
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _address(path: Path) -> str:
    """Refuse a path that does not fit `sockaddr_un`."""
    address = str(path)
    if len(address.encode()) > 107:
        raise TransportError(
            f"local link {path}: {len(address.encode())} bytes, at most 107 fit a socket's address",
            "Use a shorter folder, such as /run/edgetrt.",
        )
    return address


def _make_room(path: Path, address: str) -> None:
    """Remove a socket that nobody serves any more."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise TransportError(
            f"local link {path}: exists and is no socket", "Remove it, or use another path."
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            path.unlink()
            return
    raise TransportError(
        f"local link {path}: another process serves it", "Stop the other process first."
    )
