"""What systemd itself says of our units, and what they must not lose."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgetrt.dropins import network

SERVICES = Path(__file__).parents[2] / "services"
UNITS = sorted(
    path for kind in ("service", "path", "timer", "target") for path in SERVICES.glob(f"*.{kind}")
)
EXAMPLE_LINES = (SERVICES / "examples" / "broker-credentials.conf").read_text().splitlines()
EXPOSURE = {
    "agent": 2.0,
    "runtime": 3.0,
    "build@": 2.0,
    "rollback": 2.0,
    "requests": 1.5,
    "power@": 1.5,
}


def systemd_version() -> int:
    if shutil.which("systemd-analyze") is None:
        return 0
    said = subprocess.run(
        ["systemd-analyze", "--version"], capture_output=True, text=True, check=True
    )
    found = re.search(r"systemd (\d+)", said.stdout)
    return int(found[1]) if found else 0


needs_systemd = pytest.mark.skipif(
    systemd_version() < 250, reason="systemd-analyze of systemd 250 or newer is missing"
)


def read(name: str) -> dict[str, list[tuple[str, str]]]:
    """Directives by section, repeated ones kept."""
    sections: dict[str, list[tuple[str, str]]] = {}
    rows: list[tuple[str, str]] = []
    for line in (SERVICES / name).read_text().splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            rows = sections.setdefault(match[1], [])
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            rows.append((key, value))
    return sections


def values(name: str, key: str, section: str = "Service") -> list[str]:
    return [value for found, value in read(name)[section] if found == key]


def instance(unit: Path, folder: Path) -> Path:
    """A copy whose programs exist here; a template is given a name."""
    text = re.sub(r"/usr/(bin/edgetrt|lib/edgetrt/[a-z-]+)\b", "/bin/true", unit.read_text())
    copy = folder / unit.name.replace("@.", "@person.")
    copy.write_text(text)
    return copy


@needs_systemd
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    copies = [instance(unit, tmp_path) for unit in UNITS]

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *copies],
        capture_output=True,
        text=True,
        check=False,
    )

    ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "edgetrt" in line]
    assert ours == []
    assert done.returncode == 0


@needs_systemd
def test_a_wrong_line_would_be_found(tmp_path: Path) -> None:
    copy = instance(SERVICES / "edgetrt-agent.service", tmp_path)
    copy.write_text(copy.read_text().replace("ProtectClock=yes", "ProtectClok=yes"))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )

    assert "ProtectClok" in done.stderr


@needs_systemd
@pytest.mark.parametrize(("unit", "most"), EXPOSURE.items())
def test_a_service_is_exposed_no_more_than_agreed(unit: str, most: float, tmp_path: Path) -> None:
    copy = instance(SERVICES / f"edgetrt-{unit}.service", tmp_path)
    analyze = ["systemd-analyze", "security", "--offline=yes", "--no-pager"]

    done = subprocess.run(
        [*analyze, f"--threshold={round(most * 10)}", copy],
        capture_output=True,
        text=True,
        check=False,
    )

    print(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_every_service_has_its_exposure_limit() -> None:
    assert {f"edgetrt-{unit}.service" for unit in EXPOSURE} == {
        unit.name for unit in UNITS if unit.suffix == ".service"
    }


def test_memory_ends_at_the_build_first_and_at_the_agent_last() -> None:
    order = ("build@", "runtime", "agent")

    adjusted = [int(values(f"edgetrt-{unit}.service", "OOMScoreAdjust")[0]) for unit in order]

    assert adjusted == sorted(adjusted, reverse=True)
    assert adjusted[0] > 0 > adjusted[-1]


def test_the_agent_gets_no_device_and_the_runtime_no_network() -> None:
    agent, runtime = "edgetrt-agent.service", "edgetrt-runtime.service"

    assert values(agent, "PrivateDevices") == ["yes"]
    assert values(agent, "DeviceAllow") == []
    assert values(agent, "SupplementaryGroups") == []
    assert values(runtime, "PrivateNetwork") == ["yes"]
    assert values(runtime, "SupplementaryGroups") == ["video render"]
    assert values(runtime, "DevicePolicy") == ["closed"]


@pytest.mark.parametrize("unit", ["agent", "runtime"])
def test_a_service_is_supervised(unit: str) -> None:
    name = f"edgetrt-{unit}.service"

    assert values(name, "Type") == ["notify"]
    assert values(name, "Restart") == ["on-failure"]
    assert values(name, "RestartPreventExitStatus") == ["78"]
    assert float(values(name, "WatchdogSec")[0]) > 0
    # Nobody may be near: what failed for good is tried again when its failures count no more.
    assert values(name, "OnFailure", "Unit")[0].split()[-1] == "edgetrt-again@%N.timer"
    assert values("edgetrt-again@.timer", "OnActiveSec", "Timer") == ["10min"]
    assert float(values(name, "StartLimitIntervalSec", "Unit")[0]) < 600
    # Five failures in a row fit into the interval even when each comes by the watchdog.
    interval = float(values(name, "StartLimitIntervalSec", "Unit")[0])
    burst = int(values(name, "StartLimitBurst", "Unit")[0])
    pause = float(values(name, "RestartSec")[0])
    assert burst * (float(values(name, "WatchdogSec")[0]) + pause) < interval


def test_every_unit_that_a_unit_names_is_here() -> None:
    there = {unit.name for unit in UNITS}
    named = {
        name
        for unit in UNITS
        for name in re.findall(
            r"\bedgetrt[\w@-]*\.(?:service|path|timer|target)\b", unit.read_text()
        )
    }

    assert named - there == set()


EXAMPLES = {
    "agent-journal": ("agent", {"SupplementaryGroups"}),
    "broker-credentials": ("agent", {"LoadCredential"}),
    "csi-camera": ("runtime", {"BindPaths"}),
    "network-camera": ("runtime", {"IPAddressAllow"}),
}


@pytest.mark.parametrize(
    "example", sorted((SERVICES / "examples").glob("*.conf")), ids=lambda p: p.stem
)
def test_an_example_changes_only_what_the_unit_says(example: Path) -> None:
    unit, added = EXAMPLES[example.stem]
    known = {key for key, _ in read(f"edgetrt-{unit}.service")["Service"]}

    changed = {key for key, _ in read(f"examples/{example.name}")["Service"]}

    assert changed
    assert changed - added <= known


@needs_systemd
@pytest.mark.parametrize(
    ("lines", "unit"),
    [
        (network(["rtsp://camera/s", "rtsp://192.0.2.7/s"]), "runtime"),
        (["DeviceAllow=char-nvhost-ctrl-gpu rw", "DeviceAllow=/dev/nvmap rw"], "runtime"),
        ([line for line in EXAMPLE_LINES if line.startswith("LoadC")], "agent"),
    ],
)
def test_systemd_understands_every_line_of_a_drop_in(
    lines: list[str], unit: str, tmp_path: Path
) -> None:
    copy = instance(SERVICES / f"edgetrt-{unit}.service", tmp_path)
    drop_in = tmp_path / f"edgetrt-{unit}.service.d" / "made.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\n" + "\n".join(lines) + "\n")

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", copy],
        capture_output=True,
        text=True,
        check=False,
    )

    assert [line for line in done.stderr.splitlines() if "made.conf" in line] == []
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("states", "given_up"),
    [
        (["failed"], True),
        (["auto-restart-queued", "auto-restart", "failed"], True),
        (["failed-before-auto-restart", "auto-restart", "start-pre"], False),
        (["running"], False),
    ],
)
def test_a_unit_that_starts_again_is_not_given_up(
    states: list[str], given_up: bool, tmp_path: Path
) -> None:
    told, systemctl = tmp_path / "states", tmp_path / "systemctl"
    told.write_text("\n".join(states) + "\n")
    systemctl.write_text(f"#!/bin/sh\nhead -n 1 {told}\nsed -i 1d {told}\n")
    systemctl.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    command = [SERVICES / "given-up", "edgetrt-runtime.service"]
    done = subprocess.run(command, env=environment, check=False)

    assert done.returncode == (0 if given_up else 1)
    assert told.read_text() == ""


class Device:
    """A state folder with deployed pipelines, and a stand-in for the command that writes down its calls."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.state, self.calls = folder / "state", folder / "calls"
        (self.state / "active").mkdir(parents=True)
        for name in names:
            self.deploy(name, "new", "old")
        self.command = folder / "edgetrt"
        self.command.write_text(
            f'#!/bin/sh\necho "$@" >>{self.calls}\nrecord={self.state}/active/$2.json\n'
            'grep -q null "$record" && exit 1\n'
            # Current and previous change places, as in the real one.
            'sed -E \'s/\\["(.*)", "(.*)"\\]/["\\2", "\\1"]/\' "$record" >"$record.new"\n'
            'mv "$record.new" "$record"\n'
        )
        self.command.chmod(0o755)

    def deploy(self, name: str, engine: str, previous: str | None) -> None:
        (self.state / "active" / f"{name}.json").write_text(json.dumps([engine, previous]))

    def runs(self, name: str) -> str:
        return str(json.loads((self.state / "active" / f"{name}.json").read_text())[0])

    def fail(self, status: int = 1, told: bool = True) -> int:
        """What systemd does once the runtime has failed for good."""
        environment = {
            **os.environ,
            "EDGETRT_STATE": str(self.state),
            "EDGETRT": str(self.command),
            "EDGETRT_RUN": str(self.state.parent / "run"),
        }
        if told:
            environment["MONITOR_EXIT_STATUS"] = str(status)
        else:  # as systemd before 251: the mark alone
            mark = self.state.parent / "run/units/runtime"
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(f"failed exit-code exited {status}\n")
        rollback = [SERVICES / "rollback"]
        done = subprocess.run(rollback, env=environment, capture_output=True, check=False)
        return done.returncode


def test_a_runtime_that_failed_gets_the_engines_before(tmp_path: Path) -> None:
    device = Device(tmp_path, "door", "street")

    assert device.fail() == 0
    assert (device.runs("door"), device.runs("street")) == ("old", "old")


def test_a_deployment_is_taken_back_once_and_the_next_one_again(tmp_path: Path) -> None:
    device = Device(tmp_path, "door")

    assert [device.fail(), device.fail()] == [0, 75]
    assert device.runs("door") == "old"
    device.deploy("door", "newest", "old")
    assert device.fail() == 0
    assert device.runs("door") == "old"


def test_one_that_was_cut_off_is_not_done_twice(tmp_path: Path) -> None:
    device = Device(tmp_path, "door")
    assert device.fail() == 0
    taken = device.state / "taken-back"
    device.deploy("door", "newer", "old")
    record = (device.state / "active/door.json").read_bytes()
    digest = subprocess.run(["sha256sum"], input=record, capture_output=True, check=True).stdout
    (taken / "door.begun").write_bytes(digest)
    device.deploy("door", "old", "newer")  # the places were changed, and then the power went
    calls = device.calls.read_text()

    assert device.fail() == 0
    assert (device.runs("door"), device.calls.read_text()) == ("old", calls)
    assert device.fail() == 75


def test_a_first_engine_stays_and_so_does_every_one_when_the_config_is_wrong(
    tmp_path: Path,
) -> None:
    device = Device(tmp_path, "door")
    device.deploy("first", "only", None)

    assert [device.fail(status=78), device.fail(status=78, told=False)] == [75, 75]
    assert not device.calls.exists()
    assert device.fail() == 0
    assert (device.runs("door"), device.runs("first")) == ("old", "only")


def test_without_anything_deployed_there_is_nothing_to_take_back(tmp_path: Path) -> None:
    assert Device(tmp_path).fail() == 75
