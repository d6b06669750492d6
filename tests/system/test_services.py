"""What the services may have done by root, what they are given, and what they say, in a booted system."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.booted import Booted, eventually
from tests.system.test_boot import install
from tests.system.test_deb import must, package

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["package"]

pytestmark = [pytest.mark.system, pytest.mark.timeout(3600)]

TABLE = Path(__file__).parents[1] / "data" / "nvpmodel" / "orin-nano-8gb-super.conf"
NVPMODEL = """\
#!/bin/sh
[ "$(id -u)" = 0 ] || exit 1
grep CapEff /proc/self/status
printf 'pmode:%04d fmode:quiet' "$2" >/var/lib/nvpmodel/status
"""
AS_AGENT = ("setpriv", "--reuid=edgetrt", "--regid=edgetrt", "--clear-groups")
AGENT_DROP_IN = "/etc/systemd/system/edgetrt-agent.service.d"
RUNTIME_DROP_IN = "/etc/systemd/system/edgetrt-runtime.service.d"


class Device(Booted):
    """A booted system, and what the agent's user can do in it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.root = root

    def as_agent(self, *command: str) -> str:
        return self.run(*AS_AGENT, *command)

    def ask(self, request: str) -> None:
        self.as_agent("touch", f"/run/edgetrt/requests/{request}")
        eventually(lambda: not self.as_agent("ls", "/run/edgetrt/requests"))

    def told(self, unit: str) -> str:
        return self.as_agent("cat", f"/run/edgetrt/units/{unit}")

    def journal(self, *matches: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", *matches)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)


@pytest.fixture(scope="module", params=[None, "trixie"], ids=["here", "trixie"])
def device(
    request: pytest.FixtureRequest, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Device]:
    root = tmp_path_factory.mktemp("services") / "root"
    made = install(root, package, request.param)
    must(made, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "python3-systemd")
    system = Device(root)
    eventually(lambda: system.is_active("runtime"))
    yield system
    system.close()
    shutil.rmtree(root)


def test_the_agent_s_user_has_the_runtime_restarted(device: Device) -> None:
    before = device.show("MainPID", "runtime")

    device.ask("restart:runtime")

    eventually(lambda: device.show("MainPID", "runtime") not in (before, "0"))
    eventually(lambda: device.told("runtime") == "active")
    assert device.is_active("agent")


def test_the_agent_s_user_has_nothing_else_done(device: Device) -> None:
    agent = device.show("MainPID", "agent")

    for request in ("restart:agent", "stop:runtime", "start:rescue", "restart:ssh"):
        device.ask(request)
    device.as_agent("systemctl", "restart", "edgetrt-agent.service")

    assert device.show("MainPID", "agent") == agent
    assert device.is_active("runtime")
    assert device.journal("--unit=edgetrt-requests").count("requests: refused") >= 4


def test_a_build_that_cannot_be_made_is_told_with_its_reason(device: Device) -> None:
    device.ask("start:build@nothing")

    eventually(lambda: device.told("build@nothing").startswith("failed"))
    assert device.told("build@nothing").startswith("failed exit-code exited ")


def test_a_power_mode_is_set_by_root_without_a_capability(device: Device) -> None:
    device.write("/etc/nvpmodel.conf", TABLE.read_text())
    device.write("/var/lib/nvpmodel/status", "pmode:0000 fmode:quiet")
    device.write("/usr/sbin/nvpmodel", NVPMODEL, 0o755)

    device.ask("start:power@25W")
    eventually(lambda: device.told("power@25W") in ("inactive", "failed"))
    assert '"power_mode": "25W"' in device.run("edgetrt", "power", "show", "--json")
    for mode, why in (("7W", "needs a reboot"), ("15W", "the last change was"), ("1W", "has none")):
        device.ask(f"start:power@{mode}")
        eventually(lambda mode=mode: device.told(f"power@{mode}").startswith("failed"))  # type: ignore[misc]
        assert why in device.journal(f"--unit=edgetrt-power@{mode}.service")
    assert (device.root / "var/lib/nvpmodel/status").read_text() == "pmode:0001 fmode:quiet"


def test_the_journal_finds_a_pipeline_by_name(device: Device) -> None:
    said = device.journal("EDGETRT_PIPELINE=scene")

    assert "pipeline scene runs on onnxruntime" in said  # by the runtime
    assert "scene: running" in said  # by the agent
    assert device.journal("EDGETRT_PIPELINE=other") in ("", "-- No entries --")
    engine = device.journal("EDGETRT_PIPELINE=scene", "--output-fields=EDGETRT_ENGINE", "-ojson")
    assert '"EDGETRT_ENGINE":"' in engine


def test_a_secret_of_root_reaches_the_agent_as_a_credential(device: Device) -> None:
    device.write("/etc/edgetrt/credentials/password", "sesame\n", 0o600)
    device.write(
        f"{AGENT_DROP_IN}/password.conf",
        "[Service]\nLoadCredential=password:/etc/edgetrt/credentials/password\n",
    )
    config = device.root / "etc/edgetrt/agent.yaml"
    before = config.read_text()
    login = "broker:\n  username: cam\n  password_file: credential:{}\npipelines: [pipelines.d]\n"

    config.write_text(login.format("password"))
    device.run("systemctl", "daemon-reload")
    device.run("systemctl", "restart", "edgetrt-agent.service")
    assert device.is_active("agent")
    assert device.as_agent("cat", "/etc/edgetrt/credentials/password") == ""

    config.write_text(login.format("other"))
    device.run("systemctl", "restart", "edgetrt-agent.service")
    eventually(lambda: device.show("ActiveState", "agent") == "failed")
    assert device.show("ExecMainStatus", "agent") == "78"

    config.write_text(before)
    device.run("systemctl", "reset-failed", "edgetrt-agent.service")
    device.run("systemctl", "start", "edgetrt-agent.service")
    assert device.is_active("agent")


def test_the_network_opens_for_a_camera_and_shuts_again(device: Device) -> None:
    camera = device.root / "etc/edgetrt/pipelines.d/camera.yaml"
    model = "/usr/share/edgetrt/engines/person/recipe.yaml"
    camera.write_text(f"name: camera\nmodel: {model}\nsource: rtsp://127.0.0.1:9/none\n")
    assert "shut, and" in device.run("edgetrt", "doctor", "--sandbox", "--json")

    device.run("edgetrt", "doctor", "--sandbox", "--write")
    device.run("systemctl", "daemon-reload")
    said = device.run("edgetrt", "doctor", "--sandbox", "--json")
    assert '"ok": true' in said
    assert "IPAddressAllow=127.0.0.1" in device.run("cat", f"{RUNTIME_DROP_IN}/network.conf")

    camera.unlink()
    assert "removed" in device.run("edgetrt", "doctor", "--sandbox", "--write")
    device.run("systemctl", "daemon-reload")


def test_an_agent_that_failed_for_good_is_tried_again_later(device: Device) -> None:
    broken = f"{AGENT_DROP_IN}/broken.conf"
    device.write(broken, "[Service]\nExecStart=\nExecStart=/bin/false\n")
    device.run("systemctl", "daemon-reload")

    device.run("systemctl", "restart", "edgetrt-agent.service")
    eventually(lambda: device.show("ActiveState", "agent") == "failed")
    timers = device.run("systemctl", "list-timers", "--no-pager")

    assert "edgetrt-again@edgetrt-agent.timer" in timers
    (device.root / broken.lstrip("/")).unlink()
    device.run("systemctl", "daemon-reload")
    device.run("systemctl", "stop", "edgetrt-again@edgetrt-agent.timer")
    device.run("systemctl", "reset-failed", "edgetrt-agent.service")
    device.run("systemctl", "start", "edgetrt-agent.service")
    assert device.is_active("agent")
