"""Newer packages on a booted system: what stays, what starts again, and what is taken back."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.system.booted import Booted, eventually
from tests.system.test_boot import install
from tests.system.test_deb import ours, package

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["package"]

pytestmark = [pytest.mark.system, pytest.mark.timeout(3600)]

AGENT = "usr/lib/edgetrt/edgetrt/cli/agent.py"
START = "    children.follow_parent()\n"
ENDS = "    raise SystemExit(1)\n"
HANGS = "    import time\n\n    time.sleep(3600)\n"
KEPT = "device: kept-1\n"
LIMIT_S = 420.0
"""Two minutes to come up, those to put back what was, and these machines have two busy cores."""


class Device:
    """A booted system, the versions that can be put on it, and what is to stay."""

    def __init__(self, root: Path, package: Path) -> None:
        self.root, self._package = root, package
        self.machine = install(root, package)
        with (root / "etc/edgetrt/agent.yaml").open("a") as settings:
            settings.write(KEPT)
        (root / "var/lib/edgetrt/kept").write_text("state")
        self.system = Booted(root)

    def version(self) -> str:
        return self.system.run(
            "dpkg-query", "-f", "${Version} ${db:Status-Status}", "-W", "edgetrt"
        )

    def package(self, version: str, fault: str = "") -> str:
        """A package of the same things by another version, and with `fault` in its agent."""
        tree = self.root.parent / "tree"
        subprocess.run(["dpkg-deb", "-R", self._package, tree], check=True)
        control, named = tree / "DEBIAN/control", tree / "usr/lib/edgetrt/edgetrt/__init__.py"
        control.write_text(re.sub("Version: .*", f"Version: {version}", control.read_text()))
        named.write_text(
            re.sub('__version__ = ".*"', f'__version__ = "{version}"', named.read_text())
        )
        agent = (tree / AGENT).read_text()
        assert START in agent
        (tree / AGENT).write_text(agent.replace(START, fault + START))
        made = f"/srv/edgetrt_{version}{'_faulty' if fault else ''}.deb"
        build = ["dpkg-deb", "--root-owner-group", "-Zzstd", "-z1", "--build", str(tree)]
        subprocess.run([*build, f"{self.root}{made}"], check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(tree)
        return made

    def install(self, package: str) -> None:
        apt_get = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq")
        print(self.system.run(*apt_get, package, timeout_s=900))

    def judged(self) -> str:
        """What became of the last upgrade, once that is settled."""
        look = ("systemctl", "show", "-p", "Result", "--value", "edgetrt-upgrade.service")
        eventually(lambda: not (self.root / "var/backups/edgetrt").exists(), LIMIT_S)
        unit = ("systemctl", "show", "-p", "ActiveState", "--value", "edgetrt-upgrade.service")
        eventually(lambda: self.system.run(*unit) in ("inactive", "failed"))
        return self.system.run(*look)

    def said(self) -> str:
        """The journal of what judges."""
        return self.system.run("journalctl", "--unit=edgetrt-upgrade", "--no-pager")

    def keeps(self) -> bool:
        """Whether settings and state are what they were."""
        settings = (self.root / "etc/edgetrt/agent.yaml").read_text()
        return settings.endswith(KEPT) and (self.root / "var/lib/edgetrt/kept").exists()


@pytest.fixture(scope="module")
def device(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    made = Device(tmp_path_factory.mktemp("upgrade") / "root", package)
    eventually(lambda: made.system.is_active("runtime"))
    yield made
    made.system.close()
    shutil.rmtree(made.root)


def test_an_upgrade_starts_the_new_version_and_keeps_settings_and_state(device: Device) -> None:
    before = [device.system.show("MainPID", unit) for unit in ("agent", "runtime")]

    device.install(device.package("0.9.1"))

    assert device.judged() == "success"
    assert "edgetrt 0.9.1 came up" in device.said()
    assert device.version() == "0.9.1 installed"
    eventually(lambda: device.system.is_active("runtime"))
    after = [device.system.show("MainPID", unit) for unit in ("agent", "runtime")]
    assert not set(before) & set(after)
    assert device.system.run("edgetrt", "--version") == "edgetrt 0.9.1"
    assert device.keeps()


@pytest.mark.parametrize("fault", [ENDS, HANGS], ids=["ends", "hangs"])
def test_a_version_whose_agent_does_not_come_up_gives_way_to_the_one_before(
    device: Device, fault: str
) -> None:
    device.install(device.package("0.9.2", fault))
    begun = time.monotonic()

    assert device.judged() == "exit-code"
    print(f"the version before is back after {time.monotonic() - begun:.0f} s")
    assert device.version() == "0.9.1 installed"
    assert device.system.run("edgetrt", "--version") == "edgetrt 0.9.1"
    eventually(lambda: device.system.is_active("agent") and device.system.is_active("runtime"))
    assert device.keeps()
    assert "edgetrt 0.9.2 did not come up: 0.9.1 is back" in device.said()


def test_an_upgrade_that_lost_power_is_taken_back_by_the_next_boot(device: Device) -> None:
    device.system.run("dpkg", "--unpack", device.package("0.9.3"), timeout_s=900)
    assert device.version() == "0.9.3 unpacked"

    device.system.cut()
    device.system = Booted(device.root)

    assert device.judged() == "exit-code"
    assert device.version() == "0.9.1 installed"
    eventually(lambda: device.system.is_active("agent") and device.system.is_active("runtime"))
    assert device.keeps()


def test_purged_from_a_running_system_it_leaves_nothing(device: Device) -> None:
    device.system.run("apt-get", "purge", "-y", "-qq", "edgetrt", timeout_s=600)

    left = {path for path in ours(device.machine) if not path.startswith(("/run", "/proc"))}
    assert left == set()
    listed = device.system.run("systemctl", "list-units", "--all", "--plain", "edgetrt*")
    assert "edgetrt" not in listed.replace("edgetrt*", "")
