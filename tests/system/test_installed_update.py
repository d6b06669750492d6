"""Updates of a booted device with the package on it: systemd builds, restarts and takes back.

Everything is what an operator has: the package, its units under their own systemd, releases made and signed
by `edgetrt release`, a broker and a web server on the loopback interface of a network of the tests' own.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")
pytest.importorskip("onnxruntime")

import onnx

from edgetrt import wire
from edgetrt.update import archive, built
from edgetrt.update.record import FileStore, Memory, Record
from edgetrt.update.states import State
from tests import broker, releases
from tests.broker import Observer
from tests.system.booted import Booted, eventually
from tests.system.machine import Machine
from tests.system.test_boot import install
from tests.system.test_deb import must, package
from tests.update import ailing_runtime
from tests.update.device import serving

__all__ = ["package"]

pytestmark = [pytest.mark.system, pytest.mark.timeout(3600)]

DEVICE = "cam-1"
BANDS = "{fps_min: 10, p99_ms_max: 2000, worse_percent: null, prove_s: %d, shadow_frames: 30}"
"""Bands that a busy machine keeps as well; the look at live frames makes ACTIVATE last."""
SOURCE = "synthetic:64x64?rate_hz=20"
SHARED = ("--capability=CAP_NET_ADMIN",)
"""The container has the network of this process, and makes networks of its services' own."""
END_S = 240.0
SOUND = 160
"""Inferences before the bad network crashes: 8 s, in which it can be proven, or its agent stopped."""
CRASHES_DROP_IN = "etc/systemd/system/edgetrt-runtime.service.d/ailing.conf"
AGENT_DROP_IN = "etc/systemd/system/edgetrt-agent.service.d/broken.conf"
LOUD = re.compile(r"Traceback|SIGSYS|Bad system call|seccomp|AVC|blob data|internal error", re.I)
_NEW_NETWORK = 0x40000000


@contextmanager
def private_network() -> Iterator[None]:
    """A network of this thread's own, with nothing but its loopback interface."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        assert libc.unshare(_NEW_NETWORK) == 0, os.strerror(ctypes.get_errno())
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        assert libc.setns(before, 0) == 0
        os.close(before)


class Press:
    """Makes releases with the package's own command, and assigns them."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._folder = machine, machine.root / "srv"
        self.public = self._folder / "repository/public"
        self.digests: dict[str, str] = {}
        self.generation = 0
        self._edgetrt("init", "--keys", "/srv/keys")

    def release(self, seed: int, prove_s: int = 2, node: str = "", wrong: float = 0.0) -> str:
        """Publish one; `node` names the first node of its network. Returns its target."""
        source = self._folder / f"src-{seed}"
        path = releases.write(source, seed, BANDS % prove_s, SOURCE, wrong)
        if node:
            model = onnx.load(source / "tiny.onnx")
            model.graph.node[0].name = node
            onnx.save(model, source / "tiny.onnx")
        target = str(
            json.loads(self._edgetrt("add", f"/srv/src-{seed}/{path.name}", "--json"))["target"]
        )
        self._edgetrt("sign", "--keys", "/srv/keys")
        self._edgetrt("publish", "--keys", "/srv/keys")
        shown = json.loads(self._edgetrt("show", "--json"))
        self.digests[target] = str(shown["targets"][target]["sha256"])
        return target

    def assign(self, target: str) -> bytes:
        """The envelope of the next generation."""
        self.generation += 1
        to = f"/srv/desired-{self.generation}.json"
        what = ("--device", DEVICE, "--generation", str(self.generation))
        self._edgetrt("assign", target, *what, "--key", "/srv/keys/assignment-1.pem", "-o", to)
        return (self._folder / to.removeprefix("/srv/")).read_bytes()

    def bundle(self, target: str) -> str:
        """A file for a stick, with the next generation in it; returns its path on the device."""
        self.assign(target)
        to = f"/srv/{self.generation}.edgetrt"
        desired = f"/srv/desired-{self.generation}.json"
        self._edgetrt("bundle", target, "--desired", desired, "-o", to)
        return to

    def _edgetrt(self, what: str, *more: str) -> str:
        command = ("edgetrt", "release", what, *more, "--repository", "/srv/repository")
        return must(self._machine, *command)


class Device:
    """The booted device, and everybody around it.

    Args:
        root: its root folder.
        press: whose releases it takes.
        observer: sees what it says.
    """

    def __init__(self, root: Path, press: Press, observer: Observer) -> None:
        self.root, self.press, self.observer = root, press, observer
        self.updates = root / "var/lib/edgetrt/update"
        self.system = Booted(root, SHARED)

    def memory(self) -> Memory:
        return FileStore(self.updates).load()

    def record(self) -> Record | None:
        """The update of the newest generation, as it is on the disk."""
        record = self.memory().record
        mine = record is not None and record.generation == self.press.generation
        return record if mine else None

    def assign(self, target: str) -> str:
        """Publish an assignment, retained, as a controller does; returns the release's digest."""
        envelope = self.press.assign(target)
        sent = self.observer.client.publish(wire.desired(DEVICE), envelope, qos=1, retain=True)
        sent.wait_for_publish(20)
        return self.press.digests[target]

    def reaches(self, state: State) -> None:
        """Wait until the newest update is in a state, and is there still."""
        deadline = time.monotonic() + END_S
        while (record := self.record()) is None or (record.state, record.code) != (state, None):
            assert time.monotonic() < deadline, self.told()
            assert record is None or record.code is None, self.told()
            time.sleep(0.002)

    def ends(self, code: str, within_s: float = END_S) -> Record:
        """The newest update, once it has ended so."""
        self._until(
            lambda: (found := self.record()) is not None and found.code is not None, within_s
        )
        record = self.record()
        assert record is not None
        assert record.code is not None
        assert record.code.value == code, self.told()
        return record

    def changes_to(self, code: str) -> None:
        """Wait until an update that has ended once ends again, so."""

        def has() -> bool:
            record = self.record()
            return record is not None and record.code is not None and record.code.value == code

        self._until(has, END_S)

    def serves(self) -> str:
        """Digest of the release that serves, every byte of which is looked at; empty when none does."""
        link = self.updates / "current"
        if not link.is_symlink():
            return ""
        folder = self.updates / link.readlink()
        for name, stored in archive.read(folder).files.items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == stored.sha256
        return folder.name

    def answers_with(self, digest: str) -> None:
        """Wait until results of a release's own engine arrive over the broker."""
        made = built.read(self.updates, digest)
        assert made is not None
        engine, topic = made.pipelines[0].engine, wire.result(DEVICE, "tiny")
        before = len(self.observer.on(topic))

        def heard() -> bool:
            bodies = self.observer.on(topic)[before:]
            return bool(bodies) and engine.startswith(
                wire.decode(wire.ResultMessage, bodies[-1]).engine
            )

        self._until(heard, 60)

    def reports(self, code: str, digest: str) -> None:
        """Wait until the retained report says how the newest update ended, and what serves."""

        def heard() -> bool:
            bodies = self.observer.on(wire.reported(DEVICE))
            report = wire.decode(wire.ReportedMessage, bodies[-1]).update if bodies else None
            if report is None or report.generation != self.press.generation:
                return False
            return (report.code, report.serving) == (code, digest)

        self._until(heard, 30)

    def journal(self, *matches: str) -> str:
        return self.system.run("journalctl", "--no-pager", "--boot", *matches)

    def told(self) -> str:
        """What there is to know when something did not come."""
        said = self.journal("--unit=edgetrt-*", "--lines=60")
        return f"{self.memory()}\n{self.system.run('systemctl', 'list-units', 'edgetrt*')}\n{said}"

    def boot_again(self) -> None:
        """As when the power goes and comes back."""
        self.system.cut()
        self.system = Booted(self.root, SHARED)

    def say(self, *command: str, user: str = "root") -> tuple[int, str]:
        """Exit status and all the words of a command of a person."""
        as_user = () if user == "root" else ("runuser", "-u", user, "--")
        said = self.system.run("sh", "-c", '"$@" 2>&1; echo " $?"', "sh", *as_user, *command)
        words, _, status = said.rpartition(" ")
        return int(status), words.strip()

    def _until(self, met: Callable[[], bool], within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not met():
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.05)


def settings(port: int, address: str) -> str:
    return (
        f"device: {DEVICE}\nbroker: {{host: 127.0.0.1, port: {port}, spread_s: 0}}\n"
        "publish: {health_s: 1}\npipelines: [pipelines.d]\n"
        f"update: {{root: update-root.json, repository: '{address}', trust_clock: true}}\n"
    )


@pytest.fixture(scope="module", params=[None, "trixie"], ids=["here", "trixie"])
def device(
    request: pytest.FixtureRequest, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Device]:
    folder = tmp_path_factory.mktemp("installed")
    root = folder / "root"
    machine = install(root, package, request.param)
    (root / "etc/edgetrt/pipelines.d/scene.yaml").unlink()
    press = Press(machine)
    with (
        private_network(),
        broker.running(folder) as site,
        broker.observing(site.port) as observer,
        serving(press.public) as (address, _),
    ):
        shutil.copy(press.public / "metadata/1.root.json", root / "etc/edgetrt/update-root.json")
        (root / "etc/edgetrt/agent.yaml").write_text(settings(site.port, address))
        made = Device(root, press, observer)
        try:
            eventually(lambda: made.system.is_active("agent"))
            yield made
        finally:
            made.system.close()
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def both(device: Device) -> tuple[str, str]:
    """Two good releases."""
    return device.press.release(1), device.press.release(2)


@pytest.fixture
def served(device: Device, both: tuple[str, str]) -> str:
    """A good release, serving; its digest."""
    if not device.system.is_active("agent"):
        mend(device)
    digest = device.press.digests[both[0]]
    if device.serves() != digest:
        device.assign(both[0])
        device.ends("SUCCEEDED")
    device.answers_with(digest)
    return digest


@pytest.fixture(scope="module")
def crashing(device: Device) -> Iterator[str]:
    """A release that crashes natively, and a runtime in which its network does so; its target."""
    code = Path(ailing_runtime.__file__).read_text()
    assert "SOUND = 40\n" in code
    (device.root / "srv/ailing.py").write_text(code.replace("SOUND = 40\n", f"SOUND = {SOUND}\n"))
    launcher = (device.root / "usr/bin/edgetrt").read_text()
    run = 'import runpy\n\nrunpy.run_path("/srv/ailing.py", run_name="__main__")\n'
    begin = "from edgetrt.cli import main"
    assert begin in launcher
    ailing = device.root / "srv/edgetrt-ailing"
    ailing.write_text(launcher.partition(begin)[0] + run)
    ailing.chmod(0o755)
    drop_in = device.root / CRASHES_DROP_IN
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text("[Service]\nExecStart=\nExecStart=/srv/edgetrt-ailing runtime\n")
    device.system.run("systemctl", "daemon-reload")
    device.system.run("systemctl", "restart", "edgetrt-runtime.service")
    yield device.press.release(7, prove_s=60, node="crashes")
    drop_in.unlink()
    device.system.run("systemctl", "daemon-reload")
    device.system.run("systemctl", "restart", "edgetrt-runtime.service")


def test_a_device_with_nothing_has_its_first_release_built_and_its_runtime_started(
    device: Device, both: tuple[str, str]
) -> None:
    assert device.system.show("ActiveState", "runtime") == "inactive"

    digest = device.assign(both[0])
    device.ends("SUCCEEDED")

    assert device.serves() == digest
    device.answers_with(digest)
    device.reports("SUCCEEDED", digest)
    asked = device.journal("--unit=edgetrt-requests", "--output=cat")
    assert "carried out" in asked
    assert "Finished" in device.journal(f"--unit=edgetrt-build@{digest}", "--output=cat")
    assert device.system.show("NRestarts", "agent") == "0"


def test_the_next_one_is_swapped_in_while_the_runtime_runs_on(
    device: Device, served: str, both: tuple[str, str]
) -> None:
    before = [device.system.show("MainPID", unit) for unit in ("agent", "runtime")]

    digest = device.assign(both[1])
    begun = time.monotonic()
    device.ends("SUCCEEDED")

    print(f"desired to SUCCEEDED, PROVE of 2 s included: {time.monotonic() - begun:.1f} s")
    assert digest != served
    device.answers_with(digest)
    assert [device.system.show("MainPID", unit) for unit in ("agent", "runtime")] == before


def test_the_agent_that_did_it_has_no_rights(device: Device, served: str) -> None:
    status = device.system.run("cat", f"/proc/{device.system.show('MainPID', 'agent')}/status")
    said = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE))

    assert "0" not in said["Uid"].split()
    assert int(said["CapEff"], 16) == int(said["CapBnd"], 16) == 0
    assert (said["NoNewPrivs"], said["Seccomp"]) == ("1", "2")


def test_wrong_answers_are_refused_by_the_build_and_nothing_is_switched(
    device: Device, served: str
) -> None:
    device.assign(device.press.release(5, wrong=5.0))
    record = device.ends("REJECTED")

    assert (record.state.value, record.reason) == ("BUILD", "golden")
    assert device.serves() == served
    device.answers_with(served)


def test_one_that_crashes_is_taken_back_by_the_agent(
    device: Device, crashing: str, served: str
) -> None:
    device.assign(crashing)
    record = device.ends("ROLLED_BACK")

    assert record.reason == "prove"
    assert "started again" in record.detail
    assert device.serves() == served
    device.answers_with(served)
    device.reports("ROLLED_BACK", served)


def test_one_that_kills_the_runtime_at_once_is_taken_back(
    device: Device, crashing: str, served: str
) -> None:
    """Whoever sees it first: the agent, or systemd, whose guard needs nobody."""
    device.assign(device.press.release(6, node="stumbles"))
    record = device.ends("ROLLED_BACK", 400)

    assert record.reason in ("crashed", "prove", "runtime", "engine")
    assert device.serves() == served
    device.reports("ROLLED_BACK", served)
    eventually(lambda: device.system.is_active("runtime"))
    device.answers_with(served)


def test_a_build_that_is_killed_is_told_and_nothing_is_switched(
    device: Device, served: str
) -> None:
    digest = device.assign(device.press.release(4))
    eventually(lambda: device.system.show("MainPID", f"build@{digest}") not in ("", "0"))
    device.system.run("systemctl", "kill", "--signal=KILL", f"edgetrt-build@{digest}.service")
    record = device.ends("FAILED")

    assert record.reason == "build-killed"
    assert "signal killed KILL" in record.detail
    assert device.serves() == served
    device.answers_with(served)


def stop(device: Device) -> None:
    device.system.run("systemctl", "stop", "edgetrt-agent.service")


def mask(device: Device) -> None:
    device.system.run("systemctl", "mask", "--now", "edgetrt-agent.service")


def break_it(device: Device) -> None:
    """It cannot start again, and fails for good."""
    drop_in = device.root / AGENT_DROP_IN
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text("[Service]\nExecStart=\nExecStart=/bin/false\n")
    device.system.run("systemctl", "daemon-reload")
    device.system.run("systemctl", "kill", "--signal=KILL", "edgetrt-agent.service")


def mend(device: Device) -> None:
    (device.root / AGENT_DROP_IN).unlink(missing_ok=True)
    device.system.run("systemctl", "unmask", "edgetrt-agent.service")
    device.system.run("systemctl", "daemon-reload")
    device.system.run("systemctl", "reset-failed", "edgetrt-agent.service")
    device.system.run("systemctl", "start", "edgetrt-agent.service")


@pytest.mark.parametrize("lose", [stop, mask, break_it], ids=["stopped", "masked", "broken"])
def test_without_an_agent_systemd_counts_and_the_guard_takes_it_back(
    device: Device, crashing: str, served: str, lose: Callable[[Device], None]
) -> None:
    bad = device.assign(crashing)
    device.reaches(State.PROVE)
    lose(device)
    begun = time.monotonic()
    assert device.serves() == bad

    eventually(lambda: device.serves() == served, 300)
    eventually(lambda: device.system.is_active("runtime"))
    print(f"the release before serves {time.monotonic() - begun:.0f} s after the agent was lost")
    assert "was taken back" in device.journal("--unit=edgetrt-rollback", "--output=cat")
    assert not device.system.is_active("agent")

    mend(device)
    record = device.ends("ROLLED_BACK")
    assert record.reason == "crashed"
    assert device.serves() == served
    device.answers_with(served)
    device.reports("ROLLED_BACK", served)


def test_one_that_was_proven_and_crashes_later_is_taken_back_by_the_guard(
    device: Device, crashing: str, served: str
) -> None:
    bad = device.assign(device.press.release(8, prove_s=0, node="crashes"))
    device.ends("SUCCEEDED")

    eventually(lambda: device.serves() == served, 300)
    assert bad != served
    device.changes_to("ROLLED_BACK")
    assert device.ends("ROLLED_BACK").reason == "crashed"
    device.answers_with(served)
    device.reports("ROLLED_BACK", served)


def test_a_cut_during_the_switch_leaves_the_old_or_the_new_and_it_ends(
    device: Device, served: str, both: tuple[str, str], request: pytest.FixtureRequest
) -> None:
    tally: Counter[tuple[str, str]] = Counter()
    old, slowest_s = served, 0.0
    for number in range(request.config.getoption("--cuts")):
        state = (State.ACTIVATE, State.PROVE)[number % 2]
        target = both[device.press.digests[both[0]] == old]
        new = device.assign(target)
        device.reaches(state)
        time.sleep(number // 2 % 5 * 0.2)
        device.system.cut()
        serves, record = device.serves(), device.record()
        assert serves in (old, new)
        assert record is not None
        at = (record.code or record.state).value
        tally[at, "new" if serves == new else "old"] += 1

        device.system = Booted(device.root, SHARED)
        begun = time.monotonic()
        device.ends("SUCCEEDED")
        slowest_s = max(slowest_s, time.monotonic() - begun)
        assert device.serves() == new
        device.answers_with(new)
        device.reports("SUCCEEDED", new)
        old = new
    print(
        "\n".join(f"cut in {at}: {which} serves: {n}" for (at, which), n in sorted(tally.items()))
    )
    print(f"stuck 0; ended at most {slowest_s:.0f} s after the boot began")


def test_root_looks_imports_aborts_and_takes_back(
    device: Device, served: str, both: tuple[str, str]
) -> None:
    other = device.press.digests[both[1]]

    status, said = device.say("edgetrt", "update", "import", device.press.bundle(both[1]))
    assert status == 0, said
    device.ends("SUCCEEDED")
    device.answers_with(other)
    status, said = device.say("edgetrt", "update", "status")
    assert (status, said.count(both[1])) == (0, 2)
    status, said = device.say("edgetrt", "update", "show")
    assert status == 0
    assert "ok tiny: fps" in said

    status, said = device.say("edgetrt", "update", "abort")
    assert status != 0
    assert "no update is on its way" in said
    status, said = device.say("edgetrt", "update", "rollback")
    assert (status, "Asked for" in said or "Done" in said) == (0, True)
    device.changes_to("ROLLED_BACK")
    record = device.ends("ROLLED_BACK")
    assert (record.by_hand, record.reason) == (True, "by-hand")
    assert device.serves() == served
    device.answers_with(served)
    assert owners(device) == {"edgetrt:edgetrt"}


def test_root_imports_for_an_agent_that_does_not_run(
    device: Device, served: str, both: tuple[str, str]
) -> None:
    stop(device)
    status, said = device.say("edgetrt", "update", "import", device.press.bundle(both[1]))
    assert status == 0, said
    assert owners(device) == {"edgetrt:edgetrt"}

    mend(device)
    device.ends("SUCCEEDED")
    device.answers_with(device.press.digests[both[1]])


def test_root_calls_off_what_waits(device: Device, served: str) -> None:
    stop(device)
    status, said = device.say(
        "edgetrt", "update", "import", device.press.bundle(device.press.release(3))
    )
    assert status == 0, said

    status, said = device.say("edgetrt", "update", "abort")
    assert status == 0, said
    assert owners(device) == {"edgetrt:edgetrt"}
    mend(device)
    assert device.ends("CANCELED").reason == "aborted"
    assert device.serves() == served


def owners(device: Device) -> set[str]:
    """Of everything of the updates; the agent must be able to change all of it."""
    find = ("find", "/var/lib/edgetrt", "-printf", "%u:%g\\n")
    return set(device.system.run(*find).splitlines())


def test_a_member_of_the_group_looks_and_is_told_what_takes_more(
    device: Device, served: str, both: tuple[str, str]
) -> None:
    device.system.run("useradd", "--create-home", "--groups=edgetrt", "person")
    device.system.run("useradd", "--create-home", "stranger")

    for command in (("status",), ("show",), ("show", "--history"), ("table",)):
        status, said = device.say("edgetrt", "update", *command, user="person")
        assert status == 0, said
    status, said = device.say("edgetrt", "update", "status", user="person")
    assert said.startswith(f"serves: {both[0]} ({served[:12]})")
    for command in (("rollback",), ("import", device.press.bundle(both[1]))):
        status, said = device.say("edgetrt", "update", *command, user="person")
        assert status != 0
        assert "sudo edgetrt update" in said
    status, said = device.say("edgetrt", "update", "status", user="stranger")
    assert status != 0
    assert "sudo edgetrt update" in said
    assert device.serves() == served


def test_the_services_are_shut_in_and_the_journal_is_for_people(
    device: Device, served: str
) -> None:
    for unit in ("agent", "runtime", f"build@{served}", "rollback", "requests", "power@25W"):
        said = device.system.run(
            "systemd-analyze", "security", "--no-pager", f"edgetrt-{unit}.service"
        )
        print(said.splitlines()[-1])
        assert float(re.findall(r": ([0-9.]+) ", said.splitlines()[-1])[0]) <= 3.0
    said = device.system.run("journalctl", "--no-pager", "--unit=edgetrt-*")
    print("\n".join(sorted({re.sub(r"^.*?\]: ", "", line) for line in said.splitlines()})))
    kernel = device.system.run("journalctl", "--no-pager", "--dmesg", "--grep=audit|seccomp|SIGSYS")

    assert [line for line in said.splitlines() if LOUD.search(line)] == []
    assert [line for line in kernel.splitlines() if "edgetrt" in line] == []
