"""A config that breaks under a device keeps the last good one serving, and is told."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgetrt.app import device_config
from edgetrt.errors import ConfigError

GOOD = "device: cam-1\npublish: {result_hz: 5}\npipelines: []\n"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGETRT_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("device: cam-1\npublish: {result_h", "not valid YAML"),
        (None, "no such file"),
        ("", "empty"),
        ("\n# device: cam-1\n---\n", "empty"),
        (GOOD[:11], "in the middle of a line"),
        ("devise: cam-1\n", "unknown key. Did you mean `device`?"),
        ("device: cam-1\npublish: {result_hz: -5}\n", "result_hz"),
        ("\x00\x00\x00", "not valid YAML"),
    ],
)
def test_the_last_good_one_stands_in(
    tmp_path: Path, broken: str | None, words: str, caplog: pytest.LogCaptureFixture, state: Path
) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(GOOD)
    first, complaint = device_config(path)
    assert complaint == ""
    path.unlink() if broken is None else path.write_text(broken)
    with caplog.at_level(logging.ERROR):
        second, complaint = device_config(path)
    assert second == first
    assert words in complaint
    assert complaint.startswith(f"{path} is NOT used, the last good version of it is: ")
    assert complaint in caplog.text
    assert [kept.read_text() for kept in state.rglob("*.yaml")] == [GOOD]
    path.write_text(GOOD.replace("5", "6"))
    third, complaint = device_config(path)
    assert (third.publish.result_hz, complaint) == (6, "")


def test_a_file_that_lost_its_end_on_purpose_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    for text in (GOOD, GOOD[: GOOD.index("pipelines")], "device: cam-1"):
        path.write_text(text)
        assert device_config(path)[1] == ""


def test_a_file_that_never_was_good_is_refused(tmp_path: Path) -> None:
    good, other = tmp_path / "agent.yaml", tmp_path / "other.yaml"
    good.write_text(GOOD)
    device_config(good)
    other.write_text("device: [")
    # Another place, another device: nothing stands in for it.
    with pytest.raises(ConfigError, match=r"other\.yaml:1: not valid YAML"):
        device_config(other)


def test_a_state_that_cannot_be_written_stops_nothing(tmp_path: Path, state: Path) -> None:
    state.write_text("a file in its place")
    path = tmp_path / "agent.yaml"
    path.write_text(GOOD)
    assert device_config(path)[0].device == "cam-1"


def test_the_agent_runs_on_with_it_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(GOOD)
    device_config(path)
    path.write_text(GOOD[:30])
    command = [
        sys.executable,
        "-m",
        "edgetrt",
        "agent",
        "--config",
        str(path),
        "--run-dir",
        str(tmp_path),
    ]
    with subprocess.Popen(command, env=os.environ) as agent:
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / "status.json").exists():
                assert agent.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            health = json.loads((tmp_path / "status.json").read_bytes())["health"]
        finally:
            agent.terminate()
    assert health["device"] == "cam-1"
    (reason,) = [reason for reason in health["reasons"] if reason["code"] == "config"]
    assert reason["about"] == "agent.yaml"
    assert "agent.yaml:2: not valid YAML" in reason["text"]
