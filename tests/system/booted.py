"""A root folder booted by its own systemd, in a container that sees no other network than a test's."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Booted:
    """A system in a container; commands enter its namespaces.

    Args:
        root: its root folder.
        network: what nspawn is told of its network; none by itself.
    """

    def __init__(self, root: Path, network: Sequence[str] = ("--private-network",)) -> None:
        options = ("--boot", "--register=no", "--keep-unit", *network)
        self._console = (root.parent / "console").open("wb")
        self._nspawn = subprocess.Popen(
            ["systemd-nspawn", f"--directory={root}", *options],
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
        )
        self.leader = int(eventually(self._children))

    def _children(self) -> str:
        return (
            Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().strip()
        )

    def run(self, *command: str, timeout_s: float = 120) -> str:
        """Run a command as root; its output, whatever its exit status."""
        enter = [
            "nsenter",
            f"--target={self.leader}",
            "--all",
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin",
        ]
        done = subprocess.run(
            [*enter, *command], stdout=subprocess.PIPE, text=True, check=False, timeout=timeout_s
        )
        return done.stdout.strip()

    def show(self, what: str, unit: str) -> str:
        return self.run(
            "systemctl", "show", f"--property={what}", "--value", f"edgetrt-{unit}.service"
        )

    def is_active(self, unit: str) -> bool:
        return self.show("ActiveState", unit) == "active"

    def cut(self) -> None:
        """As when the power goes: everything stops where it is."""
        os.kill(self.leader, signal.SIGKILL)
        self._nspawn.wait()
        self._console.close()

    def close(self) -> None:
        """Shut down."""
        os.kill(self.leader, signal.SIGRTMIN + 4)  # asks systemd to power off
        try:
            self._nspawn.wait(60)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        self._console.close()


def eventually(look: Callable[[], object], seconds: float = 120.0) -> str:
    """What `look` gives once that is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return str(found)
        time.sleep(0.5)
    raise TimeoutError(f"still nothing after {seconds} s")
