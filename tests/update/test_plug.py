"""The plug is pulled: at every store and every action, then at random moments of a real process."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from edgetrt.update import archive, bundle
from edgetrt.update.record import Memory, Store
from edgetrt.update.states import TABLE, Code, State
from edgetrt.update.steps import Outcome, Step
from tests.update.device import Device, Site, offer

ROOT = Path(__file__).parents[2]


class PowerCut(BaseException):
    """No code of ours gets to react to it."""


class Plug:
    """Counts the moments at which it could be pulled, and is pulled at one of them."""

    def __init__(self, at: int | None) -> None:
        self.at, self.moments = at, list[str]()

    def moment(self, what: str) -> None:
        self.moments.append(what)
        if len(self.moments) - 1 == self.at:
            raise PowerCut(what)


class CrashingStore:
    """A store that ends with the plug, before or behind each write."""

    def __init__(self, store: Store, plug: Plug) -> None:
        self._store, self._plug = store, plug

    def load(self) -> Memory:
        return self._store.load()

    def save(self, memory: Memory) -> None:
        record = memory.record
        name = "none" if record is None else (record.code or record.state).value
        self._plug.moment(f"before storing {name}")
        self._store.save(memory)
        self._plug.moment(f"behind storing {name}")


def crashing(plug: Plug) -> Callable[[State, Step], Step]:
    def wrap(state: State, step: Step) -> Step:
        def run(record: object, memory: Memory) -> Outcome:
            plug.moment(f"before doing {state.value}")
            outcome = step(record, memory)  # type: ignore[arg-type]
            plug.moment(f"behind doing {state.value}")
            return outcome

        return run

    return wrap


class Prepared:
    """A device on which version 1 serves, and a bundle with version 2."""

    def __init__(self, folder: Path) -> None:
        site = Site(folder / "site")
        self.root = site.repository.first_root()
        first, second = site.release("1", b"one" * 1000), site.release("2", b"two" * 1000)
        digests = site.repository.load("targets").signed.targets
        self.old, self.new = (digests[name].hashes["sha256"] for name in (first, second))
        self.bundle, self.envelope = folder / "2.edgetrt", site.assign(second, 2)
        envelope = site.assign(first, 1)
        bundle.write(site.repository, first, [envelope], folder / "1.edgetrt")
        bundle.write(site.repository, second, [self.envelope], self.bundle)
        self.device = folder / "device"
        device = Device(self.device, self.root)
        device.machine.offer(offer(envelope, folder / "1.edgetrt"))
        assert device.settle().code is Code.SUCCEEDED

    def copy(self, to: Path) -> Path:
        shutil.copytree(self.device, to, symlinks=True)
        return to


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("plug"))


def run(prepared: Prepared, folder: Path, plug: Plug, good: bool, real: bool = False) -> None:
    device = Device(
        folder,
        prepared.root,
        good=good,
        wrap=crashing(plug),
        store=lambda store: CrashingStore(store, plug),
        moment=plug.moment if real else None,
    )
    device.machine.offer(offer(prepared.envelope, prepared.bundle))
    device.settle()


def assert_whole(device: Device, prepared: Prepared) -> str:
    """The old or the new release serves, every byte of it; returns its digest."""
    serves = device.layout.current()
    assert serves in (prepared.old, prepared.new)
    folder = device.layout.release(serves)
    for name, stored in archive.read(folder).files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == stored.sha256
    return serves


def go_on(prepared: Prepared, folder: Path, good: bool, real: bool = False) -> None:
    """Power is back: everything ends by itself, as the table says it must."""
    assert_whole(Device(folder, prepared.root), prepared)
    device = Device(folder, prepared.root, good=good, moment=Plug(None).moment if real else None)
    device.machine.offer(offer(prepared.envelope, prepared.bundle))  # it is retained: comes again
    record = device.settle()
    assert record.code is (Code.SUCCEEDED if good else Code.ROLLED_BACK)
    assert record.digest == prepared.new
    serves = assert_whole(device, prepared)
    assert serves == (prepared.new if good else prepared.old)
    assert device.engines.serving() == serves
    assert list((device.layout.root / "releases").glob(".new-*")) == []
    assert device.store.load().floor == 2


@pytest.mark.parametrize("good", [True, False], ids=["good", "bad"])
@pytest.mark.parametrize("part", range(4))
def test_a_cut_at_any_boundary_leaves_the_old_or_the_new_release(
    prepared: Prepared, tmp_path: Path, good: bool, part: int
) -> None:
    plug = Plug(None)
    run(prepared, prepared.copy(tmp_path / "whole"), plug, good)
    states = [row.state for row in TABLE if good or row.state is not State.COMMIT]
    states = [state for state in states if not good or state is not State.ROLLBACK]
    assert {f"before doing {state.value}" for state in states} <= set(plug.moments)

    for at in range(part, len(plug.moments), 4):
        folder = prepared.copy(tmp_path / str(at))
        with pytest.raises(PowerCut):
            run(prepared, folder, Plug(at), good)
        go_on(prepared, folder, good)


@pytest.mark.parametrize("good", [True, False], ids=["good", "bad"])
@pytest.mark.parametrize("part", range(4))
def test_a_cut_at_any_boundary_of_the_agents_own_engines_does_as_well(
    prepared: Prepared, tmp_path: Path, good: bool, part: int
) -> None:
    plug = Plug(None)
    run(prepared, prepared.copy(tmp_path / "whole"), plug, good, real=True)
    ours = {"before starting build", "while building", "behind building"}
    assert ours | {"before the runtime looks", "behind the runtime's look"} <= set(plug.moments)
    first = plug.moments.index("before doing BUILD")

    for at in range(first + part, len(plug.moments), 4):
        folder = prepared.copy(tmp_path / str(at))
        with pytest.raises(PowerCut):
            run(prepared, folder, Plug(at), good, real=True)
        go_on(prepared, folder, good, real=True)


def test_power_that_never_holds_ends_in_a_verdict(prepared: Prepared, tmp_path: Path) -> None:
    """Every attempt to build ends in a power cut: the loop is broken, and nothing was switched."""
    folder = prepared.copy(tmp_path / "device")

    def cut(state: State, step: Step) -> Step:
        def run(record: object, memory: Memory) -> Outcome:
            if state is State.BUILD:
                raise PowerCut
            return step(record, memory)  # type: ignore[arg-type]

        return run

    Device(folder, prepared.root).machine.offer(offer(prepared.envelope, prepared.bundle))
    for _ in range(200):
        device = Device(folder, prepared.root, wrap=cut)
        try:
            record = device.settle()
            break
        except PowerCut:
            continue
    else:
        raise AssertionError("it never ended")
    assert (record.code, record.reason, record.state) == (Code.FAILED, "loop", State.BUILD)
    assert device.layout.current() == prepared.old


WORKER = """
import sys
import time
from pathlib import Path
from tests.update.device import Device, offer
folder, root, envelope, bundle = map(Path, sys.argv[1:5])
device = Device(folder, root.read_bytes(), good=sys.argv[5] == "good")
device.machine.offer(offer(envelope.read_bytes(), bundle))
print("begun", flush=True)
begun = time.monotonic()
device.settle()
print(time.monotonic() - begun, flush=True)
"""


def update(
    prepared: Prepared, folder: Path, good: bool, kill_after_s: float | None
) -> tuple[int, float]:
    """One update in a process of its own; returns its exit code and, when it was left, its time."""
    root, envelope = folder.parent / "root.json", folder.parent / "envelope"
    root.write_bytes(prepared.root)
    envelope.write_bytes(prepared.envelope)
    arguments = [folder, root, envelope, prepared.bundle, "good" if good else "bad"]
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, *map(str, arguments)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            process.send_signal(signal.SIGKILL)
        took_s = float(process.stdout.readline() or 0)
        return process.wait(), took_s


def kill_often(prepared: Prepared, tmp_path: Path, times: int) -> None:
    took_s = [update(prepared, prepared.copy(tmp_path / f"t{n}"), True, None)[1] for n in range(3)]
    told: Counter[str] = Counter()
    for n in range(times):
        folder, good = prepared.copy(tmp_path / f"kill-{n}"), n % 3 > 0
        after_s = random.Random(n).uniform(0, 1.1 * max(took_s))
        told["killed"] += update(prepared, folder, good, after_s)[0] == -signal.SIGKILL
        left = Device(folder, prepared.root)
        told["new" if assert_whole(left, prepared) == prepared.new else "old"] += 1
        told[left.record().state.value] += 1
        go_on(prepared, folder, good)
        shutil.rmtree(folder)
    print(f"{times} kills, stuck 0: {dict(told)}")
    assert told["killed"] > times // 4


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_kill_at_12_random_moments(prepared: Prepared, tmp_path: Path) -> None:
    kill_often(prepared, tmp_path, 12)


@pytest.mark.system
@pytest.mark.timeout(7200)
def test_a_kill_at_1000_random_moments(prepared: Prepared, tmp_path: Path) -> None:
    kill_often(prepared, tmp_path, 1000)
