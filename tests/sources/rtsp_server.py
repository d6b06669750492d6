"""A camera for tests: RTSP 1.0 on loopback, H.264 over the same TCP connection (RFC 2326, RFC 6184)."""

from __future__ import annotations

import base64
import re
import socket
import struct
import threading
from collections.abc import Iterator

from tests.sources.videos import access_units

_SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    "a=fmtp:96 packetization-mode=1\r\na=control:track0\r\n"
)
_PAYLOAD = 600
_KNOWN_PATH = "/street"


class RtspServer:
    """Serves one endless stream at `url`; can go away and come back on the same port.

    Args:
        login: `user:password` that clients must give.
        rate_hz: pictures per second.

    Attributes:
        mute: while set, clients stay connected and get nothing.
        clients: connections that asked to play so far.
        sent: pictures sent so far.
    """

    def __init__(self, login: str = "", rate_hz: float = 50.0) -> None:
        self.mute = threading.Event()
        self.clients = 0
        self.sent = 0
        self._login = login
        self._period_s = 1.0 / rate_hz
        self._units = access_units()
        self._port = 0
        self._threads: list[threading.Thread] = []
        self.start()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self._port}{_KNOWN_PATH}"

    def start(self) -> None:
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._listener.settimeout(0.05)
        self._port = self._listener.getsockname()[1]
        self._spawn(self._accept)

    def stop(self) -> None:
        """Go away: end every connection and stop listening."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def __enter__(self) -> RtspServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with self._listener:
            while not self._stop.is_set():
                try:
                    connection, _ = self._listener.accept()
                except TimeoutError:
                    continue
                self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(0.05)
            try:
                for request in self._requests(connection):
                    method, url = request.split(" ", 2)[:2]
                    connection.sendall(self._answer(method, url, request))
                    if method == "PLAY":
                        self.clients += 1
                        self._spawn(self._play, connection)
            except OSError:
                return

    def _requests(self, connection: socket.socket) -> Iterator[str]:
        """Requests as they come; what the client sends as RTCP between them is skipped."""
        pending = b""
        while not self._stop.is_set():
            try:
                data = connection.recv(4096)
            except TimeoutError:
                continue
            if not data:
                return
            pending += data
            while pending:
                if pending[:1] == b"$":
                    if len(pending) < 4 or len(pending) < 4 + struct.unpack(">H", pending[2:4])[0]:
                        break
                    pending = pending[4 + struct.unpack(">H", pending[2:4])[0] :]
                    continue
                head, end, rest = pending.partition(b"\r\n\r\n")
                if not end:
                    break
                pending = rest
                yield head.decode()

    def _answer(self, method: str, url: str, request: str) -> bytes:
        number = re.search(r"CSeq: *(\d+)", request, re.IGNORECASE)
        status, headers, body = self._decide(method, url, request)
        lines = [f"RTSP/1.0 {status}", f"CSeq: {number[1] if number else 0}", *headers]
        if body:
            lines += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()

    def _decide(self, method: str, url: str, request: str) -> tuple[str, list[str], str]:
        given = re.search(r"Authorization: Basic (\S+)", request)
        wanted = base64.b64encode(self._login.encode()).decode()
        if self._login and method != "OPTIONS" and (given is None or given[1] != wanted):
            return "401 Unauthorized", ['WWW-Authenticate: Basic realm="camera"'], ""
        if _KNOWN_PATH not in url and method != "OPTIONS":
            return "404 Not Found", [], ""
        if method == "OPTIONS":
            return "200 OK", ["Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"], ""
        if method == "DESCRIBE":
            return "200 OK", [f"Content-Base: {url}/"], _SDP
        if method == "SETUP":
            transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"
            return "200 OK", [transport, "Session: 1"], ""
        return "200 OK", ["Session: 1"], ""

    def _play(self, connection: socket.socket) -> None:
        sequence, n = 0, 0
        while not self._stop.wait(self._period_s):
            if self.mute.is_set():
                continue
            payloads = list(packetize(self._units[n % len(self._units)]))
            stamp = round(n * 90_000 * self._period_s)
            for i, payload in enumerate(payloads):
                marker = 0x80 if i == len(payloads) - 1 else 0
                rtp = (
                    struct.pack(">BBHII", 0x80, 96 | marker, sequence & 0xFFFF, stamp, 7) + payload
                )
                sequence += 1
                try:
                    connection.sendall(b"$\x00" + struct.pack(">H", len(rtp)) + rtp)
                except OSError:
                    return
            n += 1
            self.sent += 1


def packetize(unit: bytes) -> Iterator[bytes]:
    """RTP payloads of one picture: a NAL unit each, or fragments (FU-A) of a long one."""
    for nal in filter(None, re.split(b"\x00\x00\x00?\x01", unit)):
        if len(nal) <= _PAYLOAD:
            yield nal
            continue
        indicator, kind, rest = (nal[0] & 0xE0) | 28, nal[0] & 0x1F, nal[1:]
        for at in range(0, len(rest), _PAYLOAD):
            first = 0x80 if at == 0 else 0
            last = 0x40 if at + _PAYLOAD >= len(rest) else 0
            yield bytes((indicator, first | last | kind)) + rest[at : at + _PAYLOAD]
