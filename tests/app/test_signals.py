from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.cli.command import ROOT

PROGRAM = """
import signal, time
from edgetrt.app import stop_on_signals
stop = stop_on_signals()
print("ready", flush=True)
stop.wait(60)
print("asked", flush=True)
time.sleep(SECONDS)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_for_the_end(number: int) -> None:
    with started(seconds=0) as process:
        process.send_signal(number)
        assert said(process) == "asked"
    assert process.returncode == 0


def test_a_second_interrupt_does_not_wait() -> None:
    with started(seconds=60) as process:
        process.send_signal(signal.SIGINT)
        assert said(process) == "asked"
        process.send_signal(signal.SIGINT)
    assert process.returncode == -signal.SIGINT


def started(seconds: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("SECONDS", str(seconds))],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert said(process) == "ready"
    return process


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
