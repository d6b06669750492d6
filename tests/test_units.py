"""What the agent asks for reaches root's list and nothing else does; units say how they go."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from edgetrt.errors import EdgetrtError
from edgetrt.units import SystemUnits

SERVICES = Path(__file__).parents[1] / "services"
DIGEST = "ab" * 32


class Host:
    """A folder of requests, and a stand-in for systemctl that writes down its calls."""

    def __init__(self, folder: Path, status: int = 0) -> None:
        self.run, self.calls = folder / "run", folder / "calls"
        for name in ("requests", "units"):
            (self.run / name).mkdir(parents=True)
        self.units = SystemUnits(self.run)
        programs = folder / "bin"
        programs.mkdir()
        systemctl = programs / "systemctl"
        systemctl.write_text(f'#!/bin/sh\necho "$@" >>{self.calls}\nexit {status}\n')
        systemctl.chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "EDGETRT_RUN": str(self.run),
        }

    def serve(self) -> str:
        """What edgetrt-requests.service does; returns what it says."""
        done = subprocess.run(
            [SERVICES / "requests"],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stderr

    def mark(self, *arguments: str, **environment: str) -> None:
        subprocess.run(
            [SERVICES / "mark", *arguments], env={**self.environment, **environment}, check=True
        )

    def asked(self) -> list[str]:
        """Calls of systemctl that change something."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line for line in lines if not line.startswith("reset-failed")]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_request_reaches_systemd_and_is_gone(host: Host) -> None:
    host.units.start(f"build@{DIGEST}")
    host.units.stop("build@other")
    host.units.start("power@MODE_30W")
    host.units.restart("runtime")

    assert host.serve() == ""
    assert sorted(host.asked()) == [
        "--no-block restart edgetrt-runtime.service",
        f"--no-block start edgetrt-build@{DIGEST}.service",
        "--no-block start edgetrt-power@MODE_30W.service",
        "--no-block stop edgetrt-build@other.service",
    ]
    assert list((host.run / "requests").iterdir()) == []


@pytest.mark.parametrize(
    "request_name",
    [
        "restart:ssh",
        "start:runtime",
        "stop:runtime",
        "stop:agent",
        "stop:power@MAXN",
        "start:build@",
        "start:build@..",
        "start:build@a b",
        "start:build@a;reboot",
        "start:build@-x",
        "start:build@ä",
        "start:build@a\nb",
        "restart:runtime.service",
        "start",
        "--help",
        "start:power@$(id)",
    ],
)
def test_what_is_not_on_the_list_is_refused_and_taken_away(host: Host, request_name: str) -> None:
    (host.run / "requests" / request_name).touch()

    assert "refused" in host.serve()
    assert host.asked() == []
    assert list((host.run / "requests").iterdir()) == []


def test_odd_things_in_the_folder_are_taken_away(host: Host, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("stays")
    requests = host.run / "requests"
    (requests / "folder" / "inside").mkdir(parents=True)
    (requests / "link").symlink_to(kept)
    (requests / "broken").symlink_to(tmp_path / "nothing")

    host.serve()

    assert list(requests.iterdir()) == []
    assert kept.read_text() == "stays"


@pytest.mark.parametrize(
    ("verb", "unit"),
    [("start", "ssh"), ("start", "runtime"), ("stop", "runtime"), ("start", "build@../x")],
)
def test_a_unit_that_is_not_ours_is_not_even_asked_for(host: Host, verb: str, unit: str) -> None:
    with pytest.raises(EdgetrtError, match="not one that edgetrt may"):
        getattr(host.units, verb)(unit)
    assert list((host.run / "requests").iterdir()) == []


def test_a_build_is_activating_from_the_request_to_its_end(host: Host) -> None:
    units, unit = host.units, "build@one"
    assert units.state(unit) == "inactive"

    units.start(unit)
    assert units.state(unit) == "activating"
    host.serve()
    host.mark("edgetrt-build@one", "activating")
    assert units.state(unit) == "activating"
    host.mark("edgetrt-build@one", SERVICE_RESULT="success", EXIT_CODE="exited", EXIT_STATUS="0")

    assert (units.state(unit), units.reason(unit)) == ("inactive", "")


def test_a_killed_build_says_by_whom(host: Host) -> None:
    host.units.start("build@one")

    host.mark(
        "edgetrt-build@one", SERVICE_RESULT="oom-kill", EXIT_CODE="killed", EXIT_STATUS="KILL"
    )

    assert host.units.state("build@one") == "failed"
    assert host.units.reason("build@one") == "oom-kill killed KILL"
    host.units.start("build@one")
    assert (host.units.state("build@one"), host.units.reason("build@one")) == ("activating", "")


def test_a_start_that_systemd_refuses_is_told(tmp_path: Path) -> None:
    host = Host(tmp_path, status=5)
    host.units.start("build@one")

    host.serve()

    assert host.units.state("build@one") == "failed"
    assert host.units.reason("build@one") == "systemctl start"


def test_a_mark_does_not_write_through_what_lies_there(host: Host, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("stays")
    (host.run / "units" / ".power@X").symlink_to(target)
    (host.run / "units" / "power@X").symlink_to(target)

    host.mark("edgetrt-power@X", "activating")

    assert target.read_text() == "stays"
    assert host.units.state("power@X") == "activating"


def test_without_the_services_a_request_says_what_is_missing(tmp_path: Path) -> None:
    units = SystemUnits(tmp_path)

    assert not units.served
    with pytest.raises(EdgetrtError, match=r"restart cannot be asked for") as raised:
        units.restart("runtime")
    assert "edgetrt-requests.path" in raised.value.hint


def test_a_state_that_makes_no_sense_is_none(host: Host) -> None:
    (host.run / "units" / "runtime").write_bytes(b"\xff\xfe what")

    assert host.units.state("runtime") == "inactive"
    assert host.units.reason("runtime") == ""


def test_a_start_that_could_not_be_asked_for_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    units = SystemUnits(tmp_path)

    with pytest.raises(EdgetrtError, match="start cannot be asked for"):
        units.start("build@one")

    assert units.state("build@one") != "activating"
