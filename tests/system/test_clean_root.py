"""The README's promise: on a machine with git and python3 alone, its two commands do everything."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system import machine as machines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.machine import Machine

pytestmark = [pytest.mark.system, pytest.mark.timeout(3600)]

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    yield machines.make(tmp_path)
    shutil.rmtree(tmp_path)


def test_the_demo_sets_itself_up_and_finds_people(machine: Machine) -> None:
    home = machine.clone(REPOSITORY)

    demo = ("./scripts/demo", "--headless", "--frames", "200", "--json")
    done = machine.run(*demo, folder=home)

    assert done.returncode == 0, done.stdout
    summary = json.loads(done.stdout)
    assert summary["received"] == summary["published"] > 0
    assert summary["mean_detections"] > 0
    for output in summary["output"]:
        assert Path(f"{machine.root}{home}", output).stat().st_size > 10_000
    assert broker_starts_by_itself(machine) == []


def test_the_tests_set_themselves_up_and_pass(machine: Machine) -> None:
    home = machine.clone(REPOSITORY)

    done = machine.run("./scripts/test", "-q", "-r", "fE", folder=home)

    assert done.returncode == 0, done.stdout[-8000:]


def test_an_ordinary_user_changes_nothing_but_checkout_and_cache(machine: Machine) -> None:
    ours = f"{machine.clone(REPOSITORY)}/scripts/setup opencv"
    first = machine.run("sh", "-c", f"{ours} && readlink /proc/[0-9]*/exe")
    assert first.returncode == 0
    assert "mosquitto" not in first.stdout
    home = machine.clone(REPOSITORY, user="visitor")
    before = written(machine)

    demo = ("./scripts/demo", "--headless", "--frames", "50")
    done = machine.run(*demo, folder=home, user="visitor")

    assert done.returncode == 0, done.stdout
    ours = (home, "/home/visitor/.cache")
    assert {p for p in written(machine) - before if not p.startswith(ours)} == set()


def test_without_root_and_sudo_it_says_what_root_should_run(machine: Machine) -> None:
    home = machine.clone(REPOSITORY, user="visitor")

    done = machine.run("sh", "-c", f"{home}/scripts/setup 2>&1", user="visitor")

    assert done.returncode == 1
    assert "as root, run: apt-get install python3-venv mosquitto" in done.stdout


def broker_starts_by_itself(machine: Machine) -> list[Path]:
    """Links that would start mosquitto's own service at boot."""
    etc = machine.root / "etc"
    return [*etc.glob("systemd/system/*.wants/mosquitto*"), *etc.glob("rc[2-5].d/S*mosquitto")]


def written(machine: Machine) -> set[str]:
    """Every file in the root, as path, size and time of change; run and tmp may change."""
    find = ["find", ".", "(", "-path", "./tmp", "-o", "-path", "./run", ")", "-prune"]
    find += ["-o", "!", "-type", "d", "-printf", "/%P %s %T@\\n"]
    listing = subprocess.run(find, cwd=machine.root, capture_output=True, text=True, check=True)
    return set(listing.stdout.splitlines())
