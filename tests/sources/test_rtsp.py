"""A camera that refuses, hesitates, goes away and comes back."""

from __future__ import annotations

import logging
import socket
import time

import pytest

from edgetrt.errors import SourceError
from edgetrt.sources.rtsp import RtspSource
from edgetrt.types import Frame
from tests.sources.rtsp_server import RtspServer

QUICK = (0.02, 0.1)


def wait_for_frame(source: RtspSource, attempts: int = 40) -> Frame:
    for _ in range(attempts):
        frame = source.read(timeout_s=0.5)
        if frame is not None:
            return frame
    raise AssertionError("no frame came")


def wait_for_silence(source: RtspSource) -> None:
    for _ in range(100):
        if source.read(timeout_s=0.2) is None:
            return
    raise AssertionError("frames kept coming")


def test_a_server_that_goes_away_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    with RtspServer(login="user:secret") as server, caplog.at_level(logging.DEBUG):
        url = server.url.replace("//", "//user:secret@")
        source = RtspSource(url, timeout_s=2.0, retry_s=QUICK)
        before = wait_for_frame(source)
        for times in (1, 2):
            server.stop()
            wait_for_silence(source)
            server.start()
            after = wait_for_frame(source)
            assert after.seq > before.seq
            assert source.reconnects == times
            before = after
        source.close()
    assert (
        sum("connecting again" in r.message for r in caplog.records if r.levelname == "WARNING")
        == 2
    )
    assert "secret" not in caplog.text


def test_a_server_that_falls_silent_counts_as_lost() -> None:
    with RtspServer() as server:
        source = RtspSource(server.url, timeout_s=0.7, retry_s=QUICK)
        wait_for_frame(source)
        server.mute.set()
        for _ in range(200):
            source.read(timeout_s=0.05)
            if server.clients > 1:
                break
        server.mute.clear()
        wait_for_silence_to_end(source)
        assert source.reconnects >= 1
        source.close()


def wait_for_silence_to_end(source: RtspSource) -> None:
    for _ in range(40):
        wait_for_frame(source)
        if source.reconnects:
            return


def test_what_nobody_reads_is_a_gap() -> None:
    with RtspServer(rate_hz=200) as server:
        source = RtspSource(server.url)
        first = wait_for_frame(source)
        sent = server.sent
        for _ in range(500):  # a reader that is busy elsewhere
            if server.sent > sent + 20:
                break
            time.sleep(0.01)
        assert wait_for_frame(source).seq > first.seq + 1
        source.close()


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"rtsp://127.0.0.1:{server.getsockname()[1]}/s"


def test_nobody_there_is_told() -> None:
    with pytest.raises(SourceError, match="connection refused") as caught:
        RtspSource(closed_port())
    assert "port" in caught.value.hint


def test_no_answer_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(SourceError, match="no answer in time") as caught:
            RtspSource(f"rtsp://127.0.0.1:{port}/s", timeout_s=0.3)
    assert "timeout_s" in caught.value.hint


@pytest.mark.parametrize("login", ["", "user:wrong-secret@"])
def test_a_refused_login_is_told_without_the_password(login: str) -> None:
    with RtspServer(login="user:right-secret") as server:
        with pytest.raises(SourceError, match="user name or password refused") as caught:
            RtspSource(server.url.replace("//", f"//{login}"), timeout_s=2.0)
        assert "rtsp://user:password@host" in caught.value.hint
        assert "secret" not in f"{caught.value} {caught.value.hint}"


def test_a_stream_that_is_not_there_is_told() -> None:
    with RtspServer() as server, pytest.raises(SourceError, match="no such stream"):
        RtspSource(server.url.replace("street", "garden"), timeout_s=2.0)
