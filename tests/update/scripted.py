"""A web server that says what a test tells it to, byte by byte."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Talk = Callable[[socket.socket, str], None]
"""Answers a request: the connection, and the request's head."""


@contextmanager
def scripted(
    *talks: Talk, wrap: Callable[[socket.socket], socket.socket] | None = None
) -> Iterator[int]:
    """Serve on loopback: the n-th connection is the n-th talk's, further ones the last's; yields the port.

    `wrap`: what a connection is put into first, such as TLS.
    """
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def serve() -> None:
            taken = 0
            while not ended.is_set():
                with contextlib.suppress(OSError):
                    plain, _ = server.accept()
                    with plain:
                        plain.settimeout(5)
                        with wrap(plain) if wrap is not None else plain as peer:
                            talks[min(taken, len(talks) - 1)](peer, head_of(peer))
                            taken += 1

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(server.getsockname()[1])
        finally:
            ended.set()
            thread.join()


def head_of(peer: socket.socket) -> str:
    """A request up to its empty line."""
    data = b""
    while b"\r\n\r\n" not in data and (more := peer.recv(65536)):
        data += more
    return data.decode("latin-1")


def begin_of(request: str) -> int:
    """Where the range begins that a request asks for; 0 without one."""
    found = [line for line in request.split("\r\n") if line.startswith("Range: bytes=")]
    return int(found[0].removeprefix("Range: bytes=").rstrip("-")) if found else 0
