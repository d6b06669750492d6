"""Results as lines."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgetrt.errors import SinkError
from edgetrt.sinks.jsonl import JsonlSink
from edgetrt.types import Result
from tests.sinks.results import make_result


def encode(result: Result) -> bytes:
    return json.dumps({"frame": result.frame.seq, "pad": "x" * 100}).encode()


def frames(path: Path) -> list[int]:
    return [json.loads(line)["frame"] for line in path.read_text().splitlines()]


def test_a_line_is_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl"
    sink = JsonlSink(path, encode)
    assert sink.put(make_result(0))
    assert frames(path) == [0]
    sink.close()
    assert not sink.put(make_result(1))


def test_results_that_a_full_disk_refuses_are_counted() -> None:
    sink = JsonlSink(Path("/dev/full"), encode)
    assert not sink.put(make_result(0))
    assert not sink.put(make_result(1))
    assert sink.lost == 2
    sink.close()


def test_a_restart_loses_nothing(tmp_path: Path) -> None:
    for n in range(2):
        sink = JsonlSink(tmp_path / "a.jsonl", encode)
        sink.put(make_result(n))
        sink.close()
    assert frames(tmp_path / "a.jsonl") == [0, 1]


def test_standard_output_stays_open(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    sink = JsonlSink(None, encode)
    sink.put(make_result(5))
    sink.close()
    print("after")
    lines = capfdbinary.readouterr().out.splitlines()
    assert json.loads(lines[0])["frame"] == 5
    assert lines[1] == b"after"


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_costs_the_result_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jsonl"
    sink = JsonlSink(path, encode)
    assert sink.put(make_result(0))
    with caplog.at_level(logging.WARNING):
        with disk_of(path.stat().st_size + 10):
            assert [sink.put(make_result(n)) for n in (1, 2, 3)] == [False] * 3
        assert sink.put(make_result(4))
    sink.close()
    assert len(caplog.records) == 1
    lines = path.read_bytes().splitlines()
    assert json.loads(lines[0])["frame"] == 0
    assert json.loads(lines[-1])["frame"] == 4, "a torn line must not swallow the next one"


def test_a_reader_that_went_away_costs_the_result(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink = JsonlSink(path, encode)
    assert sink.put(make_result(0))
    os.close(reader)
    assert not sink.put(make_result(1))
    sink.close()


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "a.jsonl"):
        with pytest.raises(SinkError, match="cannot be written") as caught:
            JsonlSink(path, encode)
        assert caught.value.hint


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(SinkError, match=f"{blocked} is no folder"):
        JsonlSink(blocked / "a.jsonl", lambda _: b"{}")
