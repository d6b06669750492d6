"""The package in a booted system: systemd starts, watches and restarts the services."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system import machine as machines
from tests.system.test_deb import must, package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["package"]

pytestmark = [pytest.mark.system, pytest.mark.timeout(3600)]

PIPELINE = """\
name: scene
model: /usr/share/edgetrt/engines/person/recipe.yaml
source: synthetic:768x576?objects=5&rate_hz=10
"""
WATCHDOG_S = 30


class Booted:
    """A system in a container; commands enter its namespaces."""

    def __init__(self, root: Path) -> None:
        options = ("--boot", "--register=no", "--keep-unit", "--private-network")
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

    def run(self, *command: str) -> str:
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
            [*enter, *command], stdout=subprocess.PIPE, text=True, check=False, timeout=120
        )
        return done.stdout.strip()

    def show(self, what: str, unit: str) -> str:
        return self.run(
            "systemctl", "show", f"--property={what}", "--value", f"edgetrt-{unit}.service"
        )

    def is_active(self, unit: str) -> bool:
        return self.show("ActiveState", unit) == "active"

    def close(self) -> None:
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


@pytest.fixture(scope="module")
def booted(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    root = tmp_path_factory.mktemp("boot") / "root"
    root.mkdir()
    made = machines.make(root)
    shutil.copy(package, root / "srv")
    must(made, "apt-get", "update", "-qq")
    apt_get = ("apt-get", "install", "-y", "-qq", "--no-install-recommends")
    must(made, *apt_get, "systemd-sysv", "dbus", f"/srv/{package.name}")
    (root / "etc/edgetrt/pipelines.d/scene.yaml").write_text(PIPELINE)
    system = Booted(root)
    yield system
    system.close()
    shutil.rmtree(root)


def test_the_runtime_is_ready_with_its_first_result_and_not_before(booted: Booted) -> None:
    eventually(lambda: booted.is_active("runtime"))

    status = booted.show("StatusText", "runtime")
    assert status.startswith("scene ")
    started, ready = (
        int(booted.show(key, "runtime"))
        for key in ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    )
    print(f"runtime ready after {(ready - started) / 1e6:.1f} s")
    # Loading the network and running it takes longer than starting Python does.
    assert ready - started > 500_000
    assert booted.is_active("agent")
    assert booted.show("NRestarts", "runtime") == "0"


def test_a_killed_runtime_comes_back_and_the_agent_never_notices(booted: Booted) -> None:
    eventually(lambda: booted.is_active("runtime"))
    agent, runtime = booted.show("MainPID", "agent"), booted.show("MainPID", "runtime")

    booted.run("kill", "-KILL", runtime)
    eventually(lambda: booted.show("MainPID", "runtime") not in (runtime, "0"))

    eventually(lambda: booted.is_active("runtime"))
    assert booted.show("MainPID", "agent") == agent
    assert booted.show("NRestarts", "agent") == "0"


def test_a_runtime_that_stands_still_is_killed_and_started_again(booted: Booted) -> None:
    eventually(lambda: booted.is_active("runtime"))
    runtime = booted.show("MainPID", "runtime")

    booted.run("kill", "-STOP", runtime)
    eventually(lambda: booted.show("MainPID", "runtime") not in (runtime, "0"), 4 * WATCHDOG_S)

    said = booted.run("journalctl", "--unit=edgetrt-runtime", "--no-pager")
    assert "Watchdog timeout" in said
    eventually(lambda: booted.is_active("runtime"))


def test_the_sandbox_lets_through_what_the_runtime_needs(booted: Booted) -> None:
    said = booted.run("edgetrt", "doctor", "--sandbox", "--json")

    assert '"ok": true' in said
    assert "/var/lib/edgetrt" in said
