"""The package in a booted system: systemd starts, watches and restarts the services."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.system import machine as machines
from tests.system.booted import Booted, eventually
from tests.system.test_deb import must, package

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.system.machine import Machine

__all__ = ["package"]

pytestmark = [pytest.mark.system, pytest.mark.timeout(3600)]

PIPELINE = """\
name: scene
model: /usr/share/edgetrt/engines/person/recipe.yaml
source: synthetic:768x576?objects=5&rate_hz=10
"""
WATCHDOG_S = 30


def install(root: Path, package: Path, suite: str | None = None) -> Machine:
    """A fresh root that can boot, with the package and a pipeline in it."""
    root.mkdir()
    made = machines.make(root, suite)
    shutil.copy(package, root / "srv")
    must(made, "apt-get", "update", "-qq")
    apt_get = ("apt-get", "install", "-y", "-qq", "--no-install-recommends")
    must(made, *apt_get, "systemd-sysv", "dbus", f"/srv/{package.name}")
    (root / "etc/edgetrt/pipelines.d/scene.yaml").write_text(PIPELINE)
    return made


@pytest.fixture(scope="module", params=[None, "trixie"], ids=["here", "trixie"])
def booted(
    request: pytest.FixtureRequest, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Booted]:
    root = tmp_path_factory.mktemp("boot") / "root"
    install(root, package, request.param)
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

    booted.run("sh", "-c", f"kill -KILL {runtime}")
    eventually(lambda: booted.show("MainPID", "runtime") not in (runtime, "0"))

    eventually(lambda: booted.is_active("runtime"))
    assert booted.show("MainPID", "agent") == agent
    assert booted.show("NRestarts", "agent") == "0"


def test_a_runtime_that_stands_still_is_killed_and_started_again(booted: Booted) -> None:
    eventually(lambda: booted.is_active("runtime"))
    runtime = booted.show("MainPID", "runtime")

    booted.run("sh", "-c", f"kill -STOP {runtime}")
    eventually(lambda: booted.show("MainPID", "runtime") not in (runtime, "0"), 4 * WATCHDOG_S)

    said = booted.run("journalctl", "--unit=edgetrt-runtime", "--no-pager")
    assert "Watchdog timeout" in said
    eventually(lambda: booted.is_active("runtime"))


def test_the_sandbox_lets_through_what_the_runtime_needs(booted: Booted) -> None:
    said = booted.run("edgetrt", "doctor", "--sandbox", "--json")

    assert '"ok": true' in said
    assert "/var/lib/edgetrt" in said
