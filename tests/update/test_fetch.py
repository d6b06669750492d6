"""The fetcher against servers that help, fail, stray and starve."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgetrt.errors import (
    ConfigError,
    DigestError,
    EdgetrtError,
    TrustError,
    UnreachableError,
    UpdateError,
)
from edgetrt.update import fetch as fetching
from edgetrt.update.fetch import Wanted, fetch
from edgetrt.update.origin import Limits
from edgetrt.update.web import WebOrigin
from tests.update.device import serving
from tests.update.scripted import Talk, begin_of, scripted

DATA = bytes(range(256)) * 2000
WANTED = Wanted("model.tar", hashlib.sha256(DATA).hexdigest(), len(DATA))
QUICK = Limits(answer_s=0.3, gap_s=0.3, window_s=0.2, window_bytes=1000)
PATIENT = Limits(answer_s=20, gap_s=20)


@contextmanager
def answering(*talks: Talk) -> Iterator[str]:
    """A server that speaks as told."""
    with scripted(*talks) as port:
        yield f"http://127.0.0.1:{port}"


def says(head: str, body: bytes = b"") -> Talk:
    def talk(peer: socket.socket, _: str) -> None:
        peer.sendall(f"HTTP/1.1 {head}\r\n\r\n".encode() + body)

    return talk


def whole(peer: socket.socket, request: str) -> None:
    begin = begin_of(request)
    rest = DATA[begin:]
    head = f"206 Partial\r\nContent-Range: bytes {begin}-{len(DATA) - 1}/{len(DATA)}"
    says(f"{head if begin else '200 OK'}\r\nContent-Length: {len(rest)}", rest)(peer, request)


def half(peer: socket.socket, request: str) -> None:
    says(f"200 OK\r\nContent-Length: {len(DATA)}", DATA[: len(DATA) // 2])(peer, request)


def get(url: str, folder: Path, wanted: Wanted = WANTED, limits: Limits = PATIENT) -> Path:
    return fetch(wanted, [WebOrigin(url, limits)], folder)


def nothing_left(folder: Path) -> bool:
    return not (folder / WANTED.sha256).exists()


def test_a_file_comes_whole_and_once(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/model.tar").write_bytes(DATA)
    with serving(tmp_path / "site") as (url, asked):
        path = get(url, tmp_path / "here")
        assert get(url, tmp_path / "here") == path

    assert path.read_bytes() == DATA
    assert path.stat().st_mode & 0o077 == 0
    assert asked == [("/model.tar", 0)]
    assert [file.name for file in path.parent.iterdir()] == [WANTED.sha256]


def test_an_empty_file_comes(tmp_path: Path) -> None:
    wanted = Wanted("empty", hashlib.sha256().hexdigest(), 0)
    with answering(says("200 OK\r\nContent-Length: 0")) as url:
        assert get(url, tmp_path, wanted).read_bytes() == b""


def test_a_download_goes_on_where_it_stopped(tmp_path: Path) -> None:
    begun = list[int]()

    def rest(peer: socket.socket, request: str) -> None:
        begun.append(begin_of(request))
        whole(peer, request)

    with answering(half, rest) as url:
        with pytest.raises(UnreachableError) as lost:
            get(url, tmp_path)
        assert lost.value.code == "lost"
        assert get(url, tmp_path).read_bytes() == DATA

    assert begun == [len(DATA) // 2]


def test_a_server_without_ranges_sends_all_of_it_again(tmp_path: Path) -> None:
    everything = says(f"200 OK\r\nContent-Length: {len(DATA)}", DATA)
    with answering(half, everything) as url:
        with pytest.raises(UnreachableError):
            get(url, tmp_path)
        assert get(url, tmp_path).read_bytes() == DATA


def test_a_part_that_the_server_calls_too_long_is_begun_anew(tmp_path: Path) -> None:
    with answering(half, says("416 No"), whole) as url:
        with pytest.raises(UnreachableError):
            get(url, tmp_path)
        assert get(url, tmp_path).read_bytes() == DATA


def test_a_part_that_was_damaged_here_is_begun_anew(tmp_path: Path) -> None:
    with answering(half, whole) as url:
        with pytest.raises(UnreachableError):
            get(url, tmp_path)
        part = tmp_path / f"{WANTED.sha256}.part"
        part.write_bytes(b"\0" * len(DATA))
        assert get(url, tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("mark", ["", "many", "999999999", "-5"])
def test_a_damaged_mark_costs_no_more_than_the_download(tmp_path: Path, mark: str) -> None:
    with answering(half, whole) as url:
        with pytest.raises(UnreachableError):
            get(url, tmp_path)
        (tmp_path / f"{WANTED.sha256}.at").write_text(mark)
        assert get(url, tmp_path).read_bytes() == DATA


def drip(peer: socket.socket, _: str) -> None:
    peer.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(DATA)}\r\n\r\n".encode())
    for byte in DATA[:200]:
        peer.sendall(bytes([byte]))
        time.sleep(0.02)


def drip_headers(peer: socket.socket, _: str) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 512000\r\n" * 10:
        peer.sendall(bytes([byte]))
        time.sleep(0.02)


def mute(peer: socket.socket, _: str) -> None:
    time.sleep(0.6)


def head_then_mute(peer: socket.socket, request: str) -> None:
    half(peer, request)
    time.sleep(0.6)


def endless(peer: socket.socket, _: str) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        peer.sendall(DATA)


STARVING = (drip, drip_headers, mute, head_then_mute)

REFUSALS: list[tuple[str, Talk, type[EdgetrtError], str]] = [
    ("one byte at a time", drip, UnreachableError, "slow"),
    ("one byte of the headers at a time", drip_headers, UnreachableError, "unreachable"),
    ("no answer", mute, UnreachableError, "unreachable"),
    ("silence in the middle", head_then_mute, UnreachableError, "slow"),
    ("no end", endless, DigestError, "length"),
    ("too long", says(f"200 OK\r\nContent-Length: {len(DATA) + 1}"), DigestError, "length"),
    ("too short", says("200 OK\r\nContent-Length: 7", b"1234567"), DigestError, "length"),
    (
        "another file",
        says(f"200 OK\r\nContent-Length: {len(DATA)}", DATA[::-1]),
        DigestError,
        "digest",
    ),
    (
        "gzip trap",
        says("200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 20", b"\x1f\x8b" + bytes(18)),
        TrustError,
        "encoding",
    ),
    (
        "another range",
        says("206 Partial\r\nContent-Range: bytes 9-19/20\r\nContent-Length: 11", bytes(11)),
        TrustError,
        "range",
    ),
    (
        "redirect to another host",
        says("302 Found\r\nLocation: http://127.0.0.2/model.tar\r\nContent-Length: 0"),
        TrustError,
        "redirect",
    ),
    (
        "redirect to another scheme",
        says("302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0"),
        TrustError,
        "redirect",
    ),
    (
        "redirects without end",
        says("302 Found\r\nLocation: /model.tar\r\nContent-Length: 0"),
        TrustError,
        "redirect",
    ),
    ("not there", says("404 No\r\nContent-Length: 0"), UpdateError, "not-found"),
    ("not now", says("503 No\r\nContent-Length: 0"), UnreachableError, "unreachable"),
    ("no HTTP at all", says("what?"), UnreachableError, "unreachable"),
]


@pytest.mark.parametrize(
    ("talk", "kind", "code"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_a_server_is_refused_with_a_code_and_nothing_is_left(
    tmp_path: Path, talk: Talk, kind: type[UpdateError], code: str
) -> None:
    limits = QUICK if talk in STARVING else PATIENT
    with answering(talk) as url, pytest.raises(kind) as refused:
        get(url, tmp_path, limits=limits)

    assert isinstance(refused.value, UpdateError)
    assert refused.value.code == code
    assert refused.value.hint
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("at", [0, 1, 511, 512, len(DATA) // 2, len(DATA) - 1])
def test_one_changed_byte_anywhere_is_found(tmp_path: Path, at: int) -> None:
    changed = bytearray(DATA)
    changed[at] ^= 1
    reply = says(f"200 OK\r\nContent-Length: {len(DATA)}", bytes(changed))
    with answering(reply) as url, pytest.raises(DigestError) as refused:
        get(url, tmp_path)

    assert refused.value.code == "digest"
    assert nothing_left(tmp_path)


def test_another_mirror_delivers_what_one_lies_about(tmp_path: Path) -> None:
    liar = says(f"200 OK\r\nContent-Length: {len(DATA)}", DATA[::-1])
    with answering(liar) as bad, answering(whole) as good:
        origins = [WebOrigin(url, PATIENT) for url in (bad, "http://127.0.0.1:1", good)]
        path = fetch(WANTED, origins, tmp_path)

    assert path.read_bytes() == DATA


def test_a_mirror_that_is_away_is_worth_waiting_for(tmp_path: Path) -> None:
    with answering(says("404 No\r\nContent-Length: 0")) as url:
        origins = [WebOrigin(url, PATIENT), WebOrigin("http://127.0.0.1:1", PATIENT)]
        with pytest.raises(UnreachableError):
            fetch(WANTED, origins, tmp_path)


def test_a_redirect_on_the_same_server_is_followed(tmp_path: Path) -> None:
    there = says("302 Found\r\nLocation: /elsewhere/model.tar\r\nContent-Length: 0")
    with answering(there, whole) as url:
        assert get(url, tmp_path).read_bytes() == DATA


def test_no_room_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    wanted = Wanted("model.tar", "0" * 64, 1 << 60)
    with answering(mute) as url, pytest.raises(UpdateError) as refused:
        get(url, tmp_path, wanted)

    assert refused.value.code == "space"
    assert (tmp_path / f"{'0' * 64}.part").stat().st_size == 0


def test_a_disk_that_fills_up_elsewhere_is_told(tmp_path: Path) -> None:
    (tmp_path / WANTED.sha256).with_suffix(".part").mkdir()
    with answering(whole) as url, pytest.raises(UpdateError) as refused:
        get(url, tmp_path)

    assert refused.value.code == "disk"
    assert os.strerror(errno.EISDIR) in refused.value.message


@pytest.mark.parametrize("base", ["http://example.org/x", "ftp://example.org", "example.org"])
def test_what_is_not_safe_is_not_asked(base: str) -> None:
    with pytest.raises(ConfigError):
        WebOrigin(base)


def test_plain_http_is_taken_when_told() -> None:
    assert WebOrigin("http://example.org", allow_http=True).name == "http://example.org/"


def test_a_proxy_is_asked_for_the_whole_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()

    def proxy(peer: socket.socket, request: str) -> None:
        asked.append(request)
        whole(peer, request)

    with answering(proxy) as url:
        monkeypatch.setenv("http_proxy", url.replace("//", "//me:secret@"))
        monkeypatch.setenv("no_proxy", "")
        origin = WebOrigin("http://example.invalid/r", PATIENT, allow_http=True)
        assert fetch(WANTED, [origin], tmp_path).read_bytes() == DATA

    assert asked[0].startswith("GET http://example.invalid/r/model.tar HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in asked[0]


def test_a_tunnel_that_is_refused_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    def proxy(peer: socket.socket, request: str) -> None:
        asked.append(request)
        says("407 Who are you\r\nContent-Length: 0")(peer, request)

    with answering(proxy) as url:
        monkeypatch.setenv("https_proxy", url)
        monkeypatch.setenv("no_proxy", "")
        with pytest.raises(UnreachableError, match="407"):
            get("https://example.invalid", tmp_path)

    assert asked[0].startswith("CONNECT example.invalid:443 HTTP/1.1\r\n")


def test_what_is_not_kept_is_forgotten(tmp_path: Path) -> None:
    for name in ("a.part", "a.at", "b", "b.part"):
        (tmp_path / name).write_bytes(b"")
    fetching.forget(tmp_path, "b")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "b.part"]
