"""An emulated machine loses its power in the middle of an update: kernel, page cache, disk and all.

The emulator (QEMU without KVM) is killed, so that what its kernel had not written is gone. The machine is
a Debian root with our updates, no engines: the machine of states, trust, fetch and store are real.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from tests.system.machine import make
from tests.update.test_plug import Prepared

pytestmark = [pytest.mark.system, pytest.mark.timeout(3 * 3600)]

ROOT = Path(__file__).parents[2]
EMULATOR = "qemu-system-x86_64"
POINTS = int(os.environ.get("EDGETRT_QEMU_POINTS", "20"))
BOOT_S = 600.0
PACKAGES = ("linux-image-cloud-amd64", "initramfs-tools", "python3-pip", "e2fsprogs")
INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /tmp
mount -o remount,rw /
export PYTHONPATH=/opt/site:/srv/edgetrt HOME=/root LANG=C.UTF-8
echo "edgetrt: booted"
python3 -m tests.system.guest /srv/plug 2>&1 || echo "edgetrt: FAULT"
sync
echo o >/proc/sysrq-trigger
sleep 60
"""


def test_power_goes_at_random_points_of_an_update(tmp_path: Path) -> None:
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"{EMULATOR} is not installed: apt-get install qemu-system-x86 qemu-utils")
    prepared = Prepared(tmp_path / "plug")
    start = ready(tmp_path, build(tmp_path, prepared), prepared)
    told: Counter[tuple[str, str]] = Counter()
    for point in range(POINTS):
        draw = random.Random(point)
        after_s = draw.uniform(0, 1.5 * start.took_s / len(start.states))
        state = draw.choice(start.states)
        at, serves = cut_and_go_on(tmp_path, start, prepared, state, after_s)
        told[at, serves] += 1
        print(
            f"{point + 1}: power lost in {at}, {after_s:.2f} s behind {state}: {serves}", flush=True
        )
    for (at, serves), times in sorted(told.items()):
        print(f"{at:10} {serves}: {times}")

    assert told.total() == POINTS


def build(folder: Path, prepared: Prepared) -> Path:
    """A disk with a kernel beside it, and on it the root, edgetrt, and a device on which version 1 serves."""
    root = folder / "root"
    root.mkdir()
    machine = make(root)
    assert machine.run("apt-get", "update", "-qq").returncode == 0
    install = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES)
    done = machine.run("env", "DEBIAN_FRONTEND=noninteractive", *install)
    assert done.returncode == 0, done.stdout[-2000:]
    needs = ("tuf>=7.0.1", "securesystemslib[crypto]", "msgspec", "pyyaml")
    done = machine.run("pip", "install", "-q", "--target", "/opt/site", *needs)
    assert done.returncode == 0, done.stdout[-2000:]
    for name in ("edgetrt", "tests"):
        skip = shutil.ignore_patterns("__pycache__", "data")
        shutil.copytree(ROOT / name, root / "srv/edgetrt" / name, ignore=skip)
    plug = root / "srv/plug"
    plug.mkdir()
    (plug / "root.json").write_bytes(prepared.root)
    (plug / "envelope").write_bytes(prepared.envelope)
    shutil.copy(prepared.bundle, plug / "2.edgetrt")
    prepared.copy(plug / "device")
    (root / "srv/init").write_text(INIT)
    (root / "srv/init").chmod(0o755)
    for path in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc"):
        shutil.rmtree(root / path, ignore_errors=True)
    kernel, initrd = (next(iter((root / "boot").glob(f"{n}-*"))) for n in ("vmlinuz", "initrd.img"))
    shutil.copy(kernel, folder / "vmlinuz")
    shutil.copy(initrd, folder / "initrd")
    disk = folder / "disk.img"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, disk, "3G"], check=True)
    shutil.rmtree(root)
    return disk


class Guest:
    """A running machine.

    Args:
        folder: with its kernel.
        disk: of it.
        moment: a snapshot on that disk to go on from, instead of booting.
        at_s: what its clock says at first, in seconds since 1970; None = what ours says.
    """

    def __init__(
        self, folder: Path, disk: Path, moment: str = "", at_s: float | None = None
    ) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s))
        self._monitor = folder / "monitor"
        self._process = subprocess.Popen(
            [
                *(EMULATOR, "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "512"),
                *("-display", "none", "-serial", "stdio", "-net", "none", "-no-reboot"),
                *("-monitor", f"unix:{self._monitor},server,nowait"),
                *("-kernel", folder / "vmlinuz", "-initrd", folder / "initrd"),
                *(
                    "-append",
                    "console=ttyS0 root=/dev/vda init=/srv/init quiet panic=1 no_timer_check",
                ),
                *("-drive", f"file={disk},if=virtio,format=qcow2,cache=writeback"),
                *("-rtc", f"base={at}", *(("-loadvm", moment) if moment else ())),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self.states: list[str] = []

    def until(self, words: str) -> str:
        """Read until it says this; returns the rest of the line."""
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line.rstrip())
            _, found, told = line.rstrip().partition("edgetrt: ")
            if told.startswith("state "):
                self.states.append(told.removeprefix("state "))
            if found and told.startswith(words):
                return told.removeprefix(words).strip()
            if told.startswith("FAULT"):
                break
        raise AssertionError("\n".join(said[-60:]))

    def go(self) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def keep(self, moment: str) -> None:
        """Keep this moment, memory and all, on its disk."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(BOOT_S)
            monitor.connect(str(self._monitor))
            said = b""
            for command in ("", f"savevm {moment}\n"):
                monitor.sendall(command.encode())
                while not said.endswith(b"(qemu) "):
                    said += monitor.recv(65536)
                assert b"Error" not in said, said
                said = b""

    def cut(self) -> None:
        """Its power goes; what it said before can still be read."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it, if need be, and let go of its lines."""
        self.cut()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


@contextmanager
def guest(folder: Path, disk: Path, moment: str = "", at_s: float | None = None) -> Iterator[Guest]:
    running = Guest(folder, disk, moment, at_s)
    try:
        yield running
    finally:
        running.close()


def end(running: Guest, prepared: Prepared) -> None:
    """It has to end with the new release."""
    code, digest, serves, engines = running.until("ended").split()
    assert code == "SUCCEEDED"
    assert digest == serves == engines == prepared.new


@dataclass(frozen=True)
class Ready:
    """A machine that is about to begin an update.

    Attributes:
        disk: with the snapshot `ready`.
        at_s: what its clock says there, in seconds since 1970.
        states: that the update goes through.
        took_s: how long that takes.
    """

    disk: Path
    at_s: float
    states: list[str]
    took_s: float


def ready(folder: Path, disk: Path, prepared: Prepared) -> Ready:
    """Boot a machine, keep the moment before it begins, and let it update itself once."""
    made = folder / "ready.qcow2"
    over: list[str | Path] = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        disk,
        made,
    ]
    subprocess.run(over, check=True)
    with guest(folder, made) as running:
        assert running.until("found") == prepared.old
        running.until("ready")
        running.keep("ready")
        at_s = time.time()
        running.go()
        running.until("begun")
        begun_s = time.monotonic()
        end(running, prepared)
        took_s = time.monotonic() - begun_s
        print(f"an update there takes {took_s:.1f} s: {running.states}")
        return Ready(made, at_s, running.states, took_s)


def cut_and_go_on(
    folder: Path, start: Ready, prepared: Prepared, state: str, after_s: float
) -> tuple[str, str]:
    """Cut the power so long after a state was stored; it comes back half a minute later.

    Returns:
        Where the update was, as far as it said, and whether the old or the new release serves then.
    """
    own = Path(shutil.copy(start.disk, folder / "own.qcow2"))
    with guest(folder, own, "ready") as running:
        running.go()
        running.until(f"state {state}")
        power = threading.Timer(after_s, running.cut)
        power.start()
        with contextlib.suppress(AssertionError):
            running.until("the end of its line")
        power.join()
        at = running.states[-1] if running.states else "before"
    with guest(folder, own, at_s=start.at_s + 30) as running:
        found = running.until("found")
        assert found in (prepared.old, prepared.new), found
        running.until("ready")
        running.go()
        end(running, prepared)
    own.unlink()
    return at, "new" if found == prepared.new else "old"
