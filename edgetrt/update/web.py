"""A web server as an origin: one GET, from any offset, that neither waits for ever nor strays.

The standard library's HTTP client speaks the protocol; the sockets are ours, so that a time limit
holds from the first packet on: connection, TLS, the proxy's answer and the headers together.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from edgetrt import __version__
from edgetrt.errors import ConfigError, TrustError, UnreachableError
from edgetrt.update.origin import CHUNK, Limits, Reply, StallGuard

MOST_REDIRECTS = 3
_HEADERS = {
    "Accept-Encoding": "identity",
    "User-Agent": f"edgetrt/{__version__}",
    "Connection": "close",
}
_LOOK = "Look at the network and at the repository's server; it is tried again."


class WebOrigin:
    """Files below a URL.

    Args:
        base: `https://host/folder`; plain http only to this machine itself, or when told.
        limits: how long the server may take.
        allow_http: take plain http from anywhere. Signatures protect the content all the same; what
            is fetched, and when, can then be seen on the way.
        ca_file: certificates to trust instead of the system's.
        headers: sent with every request, such as a token; they go to this server alone.
    """

    def __init__(
        self,
        base: str,
        limits: Limits | None = None,
        *,
        allow_http: bool = False,
        ca_file: Path | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._base = base.rstrip("/") + "/"
        self._headers = {**_HEADERS, **(headers or {})}
        self._limits = limits or Limits()
        self._allow_http = allow_http
        self._tls = _tls(ca_file) if self._base.startswith("https:") else None
        self._check(urlsplit(self._base))

    @property
    def name(self) -> str:
        """For messages."""
        return self._base

    @contextlib.contextmanager
    def get(self, path: str, offset: int = 0) -> Iterator[Reply]:
        """As `Origin.get`."""
        with self.open(self._base + quote(path, safe="/%"), offset) as reply:
            yield reply

    @contextlib.contextmanager
    def open(self, url: str, offset: int = 0) -> Iterator[Reply]:
        """As `Origin.get`, for a whole address on this server.

        Raises:
            TrustError: the address is on another server.
        """
        self._stay(self._base, url)
        with contextlib.ExitStack() as stack:
            for _ in range(MOST_REDIRECTS + 1):
                answer = self._ask("GET", url, offset, stack)
                if answer.status not in (301, 302, 303, 307, 308):
                    yield self._reply(answer, url, offset)
                    return
                url = self._follow(url, answer.headers.get("Location", ""))
            raise _refused(f"{url}: more than {MOST_REDIRECTS} redirects", "redirect")

    def send(self, method: str, url: str, body: bytes) -> int:
        """Give this server a JSON document.

        Returns:
            The status of its answer.

        Raises:
            UnreachableError: no answer.
            TrustError: the address is on another server.
        """
        self._stay(self._base, url)
        with contextlib.ExitStack() as stack:
            return self._ask(method, url, 0, stack, body).status

    def _ask(
        self,
        method: str,
        url: str,
        offset: int,
        stack: contextlib.ExitStack,
        body: bytes | None = None,
    ) -> http.client.HTTPResponse:
        """Send one request; the headers of its answer have been read when this returns."""
        to = urlsplit(url)
        headers = {**self._headers, "Host": to.netloc}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if offset:
            headers["Range"] = f"bytes={offset}-"
        try:
            with _Deadline(self._limits.answer_s) as deadline:
                sock, target = self._connect(to, deadline, headers)
                stack.callback(sock.close)
                connection = http.client.HTTPConnection(to.hostname or "")
                connection.sock = sock
                connection.request(method, target, body=body, headers=headers)
                answer = connection.getresponse()
                stack.callback(answer.close)
            sock.settimeout(self._limits.gap_s)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UnreachableError(f"{url}: {_words(error)}", _LOOK, "unreachable") from error
        return answer

    def _connect(
        self, to: SplitResult, deadline: _Deadline, headers: dict[str, str]
    ) -> tuple[socket.socket, str]:
        """An open connection, and what to ask for on it."""
        proxy = _proxy(to)
        sock = deadline.watch(
            socket.create_connection(_address(proxy or to), timeout=self._limits.answer_s)
        )
        path = to._replace(scheme="", netloc="").geturl() or "/"
        login = _login(proxy) if proxy else {}
        if self._tls is None:
            headers.update(login)
            return sock, to.geturl() if proxy else path
        if proxy:
            _tunnel(sock, to, login)
        wrapped = self._tls.wrap_socket(
            sock, server_hostname=to.hostname, do_handshake_on_connect=False
        )
        deadline.watch(wrapped)
        wrapped.do_handshake()
        return wrapped, path

    def _reply(self, answer: http.client.HTTPResponse, url: str, asked: int) -> Reply:
        if (encoding := answer.headers.get("Content-Encoding", "identity")) != "identity":
            raise _refused(f"{url}: sent {encoding}-encoded, expected the file itself", "encoding")
        offset = 0
        if answer.status == 206:
            found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
            offset = int(found[1]) if found else -1
            if offset != asked:
                raise _refused(f"{url}: asked for bytes from {asked}, got from {offset}", "range")
        return Reply(answer.status, offset, answer.length, self._chunks(answer, url))

    def _chunks(self, answer: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
        pace = StallGuard(self._limits, url)
        try:
            while chunk := answer.read1(CHUNK):
                pace.took(len(chunk))
                yield chunk
        except (OSError, http.client.HTTPException, ValueError) as error:
            code = "slow" if isinstance(error, TimeoutError) else "lost"
            raise UnreachableError(f"{url}: {_words(error)}", _LOOK, code) from error

    def _follow(self, url: str, location: str) -> str:
        """Where a redirect leads, as long as it stays with this server."""
        new = urljoin(url, location)
        self._stay(url, new)
        return new

    def _stay(self, url: str, new: str) -> None:
        old, to = urlsplit(url), urlsplit(new)
        if (to.scheme, to.netloc) != (old.scheme, old.netloc):
            raise _refused(f"{url}: leads to {to.scheme}://{to.netloc}", "redirect")

    def _check(self, to: SplitResult) -> None:
        if to.scheme not in ("http", "https") or not to.hostname:
            raise ConfigError(
                f"{to.geturl()}: not a web address", "Give https://host/folder of the repository."
            )
        if to.scheme == "http" and not self._allow_http and not is_loopback(to.hostname):
            raise ConfigError(
                f"{to.geturl()}: plain http to another machine",
                "Use https, or allow plain http in the settings.",
            )


class _Deadline:
    """Ends the sockets it watches when the time is over, whatever they wait for."""

    def __init__(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._seconds = seconds
        self._sockets: list[socket.socket] = []
        self._over = False

    def watch(self, sock: socket.socket) -> socket.socket:
        self._sockets.append(sock)
        return sock

    def _end(self) -> None:
        self._over = True
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()
        if kind is not None:
            for sock in self._sockets:
                sock.close()
        if self._over:
            raise TimeoutError(f"no answer within {self._seconds:g} s")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache
def _tls(ca_file: Path | None) -> ssl.SSLContext:
    """One for all origins with the same certificates: the system's are more than a megabyte."""
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except OSError as error:
        raise ConfigError(f"{ca_file}: no certificates: {error}", "Check the path.") from error


def _proxy(to: SplitResult) -> SplitResult | None:
    """The proxy that the environment names for a URL."""
    host = to.hostname or ""
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    known = urllib.request.getproxies()
    named = known.get(to.scheme) or known.get("all")
    return None if named is None else urlsplit(named if "//" in named else f"http://{named}")


def _login(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    words = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {b64encode(words).decode()}"}


def _tunnel(sock: socket.socket, to: SplitResult, login: dict[str, str]) -> None:
    """Ask a proxy for a connection to a server."""
    host = "{}:{}".format(*_address(to))
    lines = [f"CONNECT {host} HTTP/1.1", f"Host: {host}", *map(": ".join, login.items())]
    sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
    with contextlib.closing(http.client.HTTPResponse(sock, method="CONNECT")) as answer:
        answer.begin()
    if answer.status != 200:
        raise OSError(f"the proxy answers {answer.status} {answer.reason}")


def _address(to: SplitResult) -> tuple[str, int]:
    return to.hostname or "", to.port or (443 if to.scheme == "https" else 80)


def _words(error: Exception) -> str:
    return f"{error}" or type(error).__name__


def _refused(what: str, code: str) -> TrustError:
    return TrustError(
        what, "Look at the server, and at who stands between it and the device.", code
    )
