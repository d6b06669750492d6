"""The demo of updates, as a person runs it: every case of it, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from tests.broker import MOSQUITTO
from tests.cli.command import ROOT, edgetrt

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]

ENDS = {
    "a good release": ("SUCCEEDED", ""),
    "an assignment signed by a thief": ("refused", "signature"),
    "a file changed on the web server": ("REJECTED", "digest"),
    "one that answers wrongly": ("REJECTED", "golden"),
    "the same answers, much slower": ("ROLLED_BACK", "prove"),
    "the plug pulled, twice": ("SUCCEEDED", ""),
    "back to the first, engines cached": ("SUCCEEDED", ""),
}


@pytest.fixture(scope="module")
def report() -> Any:
    done = edgetrt("demo-update", "--json", timeout_s=580)
    assert done.code == 0, done.err + done.out
    return done.json()


def test_every_case_ends_as_it_has_to(report: Any) -> None:
    assert report["ok"]
    ends = {case["name"]: (case["code"], case["reason"]) for case in report["cases"]}
    assert ends == ENDS
    for case in report["cases"]:
        assert case["detail"] or case["code"] == "SUCCEEDED"


def test_no_frame_is_lost_at_a_switch(report: Any) -> None:
    switched = [case["gap"] for case in report["cases"] if case["gap"] is not None]

    assert len(switched) == 2
    assert [gap["lost"] for gap in switched] == [0, 0]


def test_each_pull_leaves_a_whole_release(report: Any) -> None:
    (pulled,) = [case for case in report["cases"] if "plug" in case["name"]]

    notes = [note for note in pulled["notes"] if note.startswith("pulled in ")]
    assert len(notes) == 2
    assert all(note.endswith("whole") for note in notes)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_takes_every_process_along(tmp_path: Path, number: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "edgetrt", "demo-update"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as demo:
        for _ in range(600):
            if list(tmp_path.glob("edgetrt-*/demo/device/logs/runtime.log")):
                break
            time.sleep(0.1)
        demo.send_signal(number)
        assert demo.wait(60) != 0
    for _ in range(100):  # who was told to end may take a moment on a busy machine
        left = [pid for pid in _processes() if _mentions(pid, str(tmp_path))]
        if not left:
            break
        time.sleep(0.1)
    assert left == []


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _mentions(pid: int, text: str) -> bool:
    try:
        return text in (Path("/proc") / str(pid) / "cmdline").read_text(errors="replace")
    except OSError:
        return False
