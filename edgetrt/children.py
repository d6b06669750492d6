"""The port `Units` where there is no systemd: the same processes as children of this one."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from edgetrt.errors import EdgetrtError

PARENT = "EDGETRT_PARENT"
"""Environment variable that tells a child whose end it must not outlive."""

_PR_SET_PDEATHSIG = 1  # prctl(2)


class Children:
    """Starts `edgetrt` commands as child processes and ends them with this one.

    Args:
        commands: arguments of `edgetrt` by unit name, as in `{"agent": ["agent", "--config", "…"]}`.
        nice: how much they leave others the processor, 0..19.
    """

    def __init__(self, commands: Mapping[str, Sequence[str]], nice: int = 0) -> None:
        self._commands = commands
        self._before = ["nice", "-n", str(nice)] if nice else []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, unit: str) -> None:
        """Start a unit; no effect when it runs."""
        if self.state(unit) == "active":
            return
        command = [*self._before, sys.executable, "-m", "edgetrt", *self._commands[unit]]
        self._processes[unit] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, env={**os.environ, PARENT: str(os.getpid())}
        )

    def restart(self, unit: str) -> None:
        """Stop and start it."""
        self.stop(unit)
        self.start(unit)

    def stop(self, unit: str, timeout_s: float = 10.0) -> int | None:
        """Ask it to end, insist after `timeout_s`; returns its exit status, None when it never ran."""
        process = self._processes.get(unit)
        if process is None:
            return None
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return process.returncode

    def state(self, unit: str) -> str:
        """`active`, `inactive` (never started, or ended with 0) or `failed`."""
        process = self._processes.get(unit)
        if process is None:
            return "inactive"
        status = process.poll()
        if status is None:
            return "active"
        return "inactive" if status == 0 else "failed"

    def status(self, unit: str) -> int | None:
        """Exit status; None while it runs."""
        process = self._processes.get(unit)
        return None if process is None else process.poll()

    def close(self) -> None:
        """End them all, the last one started first."""
        for unit in reversed(self._processes):
            self.stop(unit)


def how_it_ended(status: int) -> str:
    """Put an exit status in words, as `subprocess` gives it: negative for a signal."""
    if status >= 0:
        return f"ended with {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def follow_parent() -> None:
    """In a child of `Children`: end when the parent does, also when it is killed.

    Raises:
        EdgetrtError: the parent has ended already.
    """
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        raise EdgetrtError("the process that started this one has ended")
