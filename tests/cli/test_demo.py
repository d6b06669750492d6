from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.broker import MOSQUITTO
from tests.cli.command import ROOT, edgetrt


def test_a_folder_that_cannot_be_written_is_told_before_anything_starts(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    for output in (blocked, blocked / "deeper", Path("/proc/none")):
        done = edgetrt("demo", "--headless", "--output", output)
        assert done.code == 73, done.err
        assert f"{output}: cannot be used as a folder" in done.err
        assert "--output" in done.err


@pytest.mark.parametrize(
    ("option", "value", "code", "words"),
    [
        ("--video", "none.avi", 66, "none.avi: no such file"),
        ("--video", "empty.avi", 66, "empty.avi: is empty"),
        ("--video", ".", 66, "is a folder"),
        ("--backend", "tea", 78, "no such backend"),
    ],
)
def test_mistakes_are_told_at_once(
    tmp_path: Path, option: str, value: str, code: int, words: str
) -> None:
    (tmp_path / "empty.avi").touch()
    done = edgetrt("demo", "--headless", option, value, cwd=tmp_path)
    assert done.code == code, done.err
    assert words in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_takes_every_process_of_the_demo_along(tmp_path: Path, number: int) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "edgetrt", "demo", "--headless", "--frames", "100000"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(scratch),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PATH": str(tmp_path),  # no package tool: the drawn scene
    }
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as demo:
        assert demo.stderr is not None
        for line in demo.stderr:
            if b"drawn scene" in line:
                break
        for _ in range(300):
            if list(scratch.glob("edgetrt-*/runtime.sock")):
                break
            time.sleep(0.1)
        demo.send_signal(number)
        try:
            code = demo.wait(30)
        finally:
            demo.kill()
        demo.stderr.read()  # ends when the last process that holds it has
    assert code != 0
    assert not list(scratch.iterdir())
