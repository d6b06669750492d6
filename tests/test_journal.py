"""Lines reach the journal with their fields and priorities, and a terminal without."""

from __future__ import annotations

import ast
import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgetrt import journal

ROOT = Path(__file__).parents[1]
STAND_IN = """
import logging

class JournalHandler(logging.Handler):
    def __init__(self, **fields):
        super().__init__()
        self.fields = fields

    def emit(self, record):
        ours = {k: v for k, v in record.__dict__.items() if k.startswith("EDGETRT_")}
        print({"MESSAGE": self.format(record), **self.fields, **ours}, flush=True)
"""
PROGRAM = """
import logging, threading
from edgetrt import journal
journal.set_up(logging.WARNING)
log = logging.getLogger("edgetrt.runtime.supervisor")
logging.getLogger("other.library").info("chatter")
log.info("agent line", extra=journal.fields(event="health"))
def work():
    journal.note(pipeline="street")
    journal.note(engine="abc")
    log.warning("two\\nlines")
    log.error("mine", extra=journal.fields(pipeline="door"))
thread = threading.Thread(target=work)
thread.start()
thread.join()
log.debug("detail")
log.critical("end")
"""


def said(tmp_path: Path, *, stand_in: bool, journal_stream: bool = True) -> tuple[str, str]:
    """Stdout and stderr of the program, whose stderr is what systemd says is its stream."""
    if stand_in:
        (tmp_path / "systemd").mkdir()
        (tmp_path / "systemd" / "__init__.py").touch()
        (tmp_path / "systemd" / "journal.py").write_text(STAND_IN)
    with (tmp_path / "stderr").open("w+b") as stream:
        found = os.fstat(stream.fileno())
        place = f"{found.st_dev}:{found.st_ino}" if journal_stream else "0:0"
        done = subprocess.run(
            [sys.executable, "-S", "-c", PROGRAM],
            env={"JOURNAL_STREAM": place, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
            stdout=subprocess.PIPE,
            stderr=stream,
            check=True,
        )
        stream.seek(0)
        return done.stdout.decode(), stream.read().decode()


def test_the_journal_gets_each_line_with_its_fields(tmp_path: Path) -> None:
    out, err = said(tmp_path, stand_in=True)

    us = {"SYSLOG_IDENTIFIER": "edgetrt"}
    street = {"EDGETRT_PIPELINE": "street", "EDGETRT_ENGINE": "abc"}
    assert [ast.literal_eval(line) for line in out.splitlines()] == [
        {"MESSAGE": "agent line", **us, "EDGETRT_EVENT": "health"},
        {"MESSAGE": "two\nlines", **us, **street},
        {"MESSAGE": "mine", **us, **street, "EDGETRT_PIPELINE": "door"},
        {"MESSAGE": "end", **us},
    ]
    assert err == ""


def test_without_systemd_python_the_priorities_still_arrive(tmp_path: Path) -> None:
    _, err = said(tmp_path, stand_in=False)

    name = "edgetrt.runtime.supervisor"
    assert err.splitlines() == [
        f"<6>{name}: agent line",
        f"<4>{name}: two",
        "<4>lines",
        f"<3>{name}: mine",
        f"<2>{name}: end",
    ]


def test_a_terminal_gets_plain_lines_from_the_level_asked_for(tmp_path: Path) -> None:
    _, err = said(tmp_path, stand_in=True, journal_stream=False)

    name = "edgetrt.runtime.supervisor"
    assert err.splitlines()[:2] == [f"WARNING {name}: two", "lines"]
    assert "agent line" not in err


@pytest.mark.parametrize("stream", ["", "0:0", "nonsense"])
def test_another_stream_is_not_the_journal(stream: str) -> None:
    assert not journal.is_journal({"JOURNAL_STREAM": stream}, 2)
    assert not journal.is_journal({}, -1)


@pytest.fixture
def lines() -> Iterator[tuple[logging.Logger, list[logging.LogRecord]]]:
    """A logger of its own, and what a handler with our filter gets."""
    log, seen = logging.getLogger("edgetrt.test-of-fields"), list[logging.LogRecord]()
    handler = logging.StreamHandler(io.StringIO())
    handler.addFilter(journal.ThreadFields())
    handler.addFilter(lambda record: not seen.append(record))
    log.addHandler(handler)
    log.propagate = False
    yield log, seen
    log.removeHandler(handler)


def test_what_a_thread_notes_is_its_own(
    lines: tuple[logging.Logger, list[logging.LogRecord]],
) -> None:
    log, seen = lines

    def work(name: str) -> None:
        journal.note(pipeline=name)
        log.warning("here")

    for name in ("street", "door", ""):
        thread = threading.Thread(target=work, args=(name,))
        thread.start()
        thread.join()

    assert [record.__dict__.get(journal.PIPELINE) for record in seen] == ["street", "door", None]


def test_empty_fields_are_left_out() -> None:
    assert journal.fields() == {}
    assert journal.fields(event="pipeline", engine="abc") == {
        "EDGETRT_EVENT": "pipeline",
        "EDGETRT_ENGINE": "abc",
    }
