"""Releases over real TLS: who signed the server's certificate, for which name, until when."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="the extra `update` is not installed")

from edgetrt.errors import ConfigError, TrustError, UnreachableError
from edgetrt.update.fetch import Wanted, fetch
from edgetrt.update.origin import Limits
from edgetrt.update.web import WebOrigin
from tests.authority import Authority, Credentials
from tests.update.scripted import Talk, begin_of, scripted

DATA = bytes(range(256)) * 4000
WANTED = Wanted("model.tar", hashlib.sha256(DATA).hexdigest(), len(DATA))
QUICK = Limits(answer_s=5.0, gap_s=5.0)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@contextmanager
def listening(
    credentials: Credentials, *talks: Talk, newest: ssl.TLSVersion | None = None
) -> Iterator[int]:
    """A TLS server that speaks as told; yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(credentials.cert, credentials.key)
    if newest is not None:
        context.minimum_version = context.maximum_version = newest
    with scripted(*talks, wrap=partial(context.wrap_socket, server_side=True)) as port:
        yield port


def whole(peer: socket.socket, request: str) -> None:
    begin = begin_of(request)
    head = f"HTTP/1.1 {'206 Partial' if begin else '200 OK'}\r\nContent-Length: {len(DATA) - begin}\r\n"
    if begin:
        head += f"Content-Range: bytes {begin}-{len(DATA) - 1}/{len(DATA)}\r\n"
    peer.sendall(head.encode() + b"\r\n" + DATA[begin:])


def torn(peer: socket.socket, request: str) -> None:
    """Half of it, then the line is cut without TLS's own goodbye."""
    peer.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(DATA)}\r\n\r\n".encode())
    peer.sendall(DATA[: len(DATA) // 2])
    peer.shutdown(socket.SHUT_RDWR)


def get(port: int, ca: Path | None, folder: Path, host: str = "localhost") -> Path:
    return fetch(WANTED, [WebOrigin(f"https://{host}:{port}", QUICK, ca_file=ca)], folder)


def test_a_file_comes_over_tls_and_goes_on_where_the_line_was_cut(
    authority: Authority, tmp_path: Path
) -> None:
    begun = list[int]()

    def rest(peer: socket.socket, request: str) -> None:
        begun.append(begin_of(request))
        whole(peer, request)

    mine = authority.issue("localhost", hosts=("localhost",), server=True)
    with listening(mine, torn, rest) as port:
        with pytest.raises(UnreachableError) as lost:
            get(port, authority.ca, tmp_path)
        assert lost.value.code == "lost"
        assert get(port, authority.ca, tmp_path).read_bytes() == DATA

    (at,) = begun
    assert 0 < at <= len(DATA) // 2


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_of_tls_are_spoken(
    authority: Authority, tmp_path: Path, newest: ssl.TLSVersion
) -> None:
    mine = authority.issue("127.0.0.1", hosts=("127.0.0.1",), server=True)
    with listening(mine, whole, newest=newest) as port:
        assert get(port, authority.ca, tmp_path, "127.0.0.1").read_bytes() == DATA


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"hosts": ("other.example",)}, "Hostname mismatch|not valid for"),
        ({"hosts": ("localhost",), "from_days": -9.0, "to_days": -1.0}, "expired"),
        ({"hosts": ("localhost",), "from_days": 2.0}, "not yet valid"),
        ({"hosts": ("localhost",), "server": False}, "purpose"),
    ],
    ids=["another host", "expired", "of tomorrow", "of a client"],
)
def test_a_certificate_that_does_not_hold_gets_no_request(
    authority: Authority, tmp_path: Path, how: dict[str, object], said: str
) -> None:
    asked = list[str]()

    def note(peer: socket.socket, request: str) -> None:
        asked.append(request)

    theirs = authority.issue("theirs", **{"server": True, **how})  # type: ignore[arg-type]
    with (
        listening(theirs, note) as port,
        pytest.raises(UnreachableError, match=said) as refused,
    ):
        get(port, authority.ca, tmp_path)

    assert refused.value.code == "unreachable"
    assert asked == []
    assert not (tmp_path / WANTED.sha256).exists()


def test_a_certificate_of_another_authority_gets_no_request(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    theirs = other.issue("localhost", hosts=("localhost",), server=True)
    with listening(theirs, whole) as port:
        for ca in (authority.ca, None):  # the system's own know none of ours either
            with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
                get(port, ca, tmp_path / "here")


def test_a_redirect_from_https_to_http_is_refused(authority: Authority, tmp_path: Path) -> None:
    def down(peer: socket.socket, _: str) -> None:
        peer.sendall(
            b"HTTP/1.1 302 Found\r\nLocation: http://localhost:1/model.tar\r\nContent-Length: 0\r\n\r\n"
        )

    mine = authority.issue("localhost", hosts=("localhost",), server=True)
    with listening(mine, down) as port, pytest.raises(TrustError) as refused:
        get(port, authority.ca, tmp_path)

    assert refused.value.code == "redirect"


def test_plain_http_behind_an_https_address_is_no_answer(
    authority: Authority, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                peer.recv(65536)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with pytest.raises(UnreachableError):
                get(port, authority.ca, tmp_path)
        finally:
            thread.join()


def test_certificates_that_are_none_are_told(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    for path in (tmp_path / "ca.crt", tmp_path / "none.crt"):
        with pytest.raises(ConfigError):
            WebOrigin("https://localhost", ca_file=path)


class Tunnel:
    """A proxy that connects as asked, or as it likes."""

    def __init__(self, to: Callable[[str], tuple[str, int]]) -> None:
        self._to, self.asked = to, list[str]()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.05)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._server.close()

    def _serve(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(OSError):
                peer, _ = self._server.accept()
                with peer:
                    peer.settimeout(5)
                    line = peer.recv(65536).decode("latin-1").split("\r\n")[0]
                    self.asked.append(line)
                    with socket.create_connection(self._to(line.split()[1])) as far:
                        peer.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                        self._pump(peer, far)

    def _pump(self, peer: socket.socket, far: socket.socket) -> None:
        def copy(source: socket.socket, to: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    to.sendall(data)
            with contextlib.suppress(OSError):
                to.shutdown(socket.SHUT_WR)

        back = threading.Thread(target=copy, args=(far, peer))
        back.start()
        copy(peer, far)
        back.join()


def test_a_proxy_tunnels_and_reads_nothing(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate is checked for the server's name, whatever the proxy connects to."""
    mine = authority.issue("far", hosts=("releases.example.org",), server=True)
    with listening(mine, whole) as port:
        tunnel = Tunnel(lambda _: ("127.0.0.1", port))
        with tunnel as proxy:
            monkeypatch.setenv("https_proxy", proxy)
            monkeypatch.setenv("no_proxy", "")
            origin = WebOrigin("https://releases.example.org", QUICK, ca_file=authority.ca)
            assert fetch(WANTED, [origin], tmp_path).read_bytes() == DATA
            other = WebOrigin("https://other.example.org", QUICK, ca_file=authority.ca)
            with pytest.raises(UnreachableError, match=r"Hostname mismatch|not valid for"):
                fetch(WANTED, [other], tmp_path / "second")

    assert tunnel.asked == [
        "CONNECT releases.example.org:443 HTTP/1.1",
        "CONNECT other.example.org:443 HTTP/1.1",
    ]
