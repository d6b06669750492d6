"""SIGKILL of a real agent during real updates: afterwards the old release serves or the new one, whole.

Everything is real: the agent and the runtime with ONNX Runtime, builds in child processes, a broker, a web
server, fsync. Good releases and bad ones take turns; each kill is at a random moment of an update, and the
next start of the agent may be killed again. At the end of each update the right release must serve.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")
pytest.importorskip("onnxruntime")

from edgetrt import wire
from edgetrt.update import archive, built
from edgetrt.update.states import State
from tests import broker
from tests.broker import Observer
from tests.update import live
from tests.update.device import serving
from tests.update.live import BANDS, Device, Press

pytestmark = pytest.mark.broker

QUICK = BANDS.replace("prove_s: 1", "prove_s: 0")
BAD = "{p99_ms_max: 0.001, prove_s: 0}"
END_S = 300.0
"""An update that has not ended so long after the last kill is stuck."""


@dataclass
class Tally:
    """The kill table."""

    old: Counter[str] = field(default_factory=Counter)
    new: Counter[str] = field(default_factory=Counter)
    updates: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0

    @property
    def kills(self) -> int:
        return self.old.total() + self.new.total()

    def table(self) -> str:
        states = [*dict.fromkeys([*self.old, *self.new])]
        rows = [
            f"{state:<14} {self.old[state]:>5} {self.new[state]:>5}" for state in sorted(states)
        ]
        ends = ", ".join(f"{count} {code}" for code, count in sorted(self.updates.items()))
        return "\n".join(
            [
                f"{'killed in':<14} {'old':>5} {'new':>5}",
                *rows,
                f"{'moments tried':<14} {self.old.total():>5} {self.new.total():>5}   stuck 0",
                f"updates: {ends}; slowest to end after its last kill {self.slowest_s:.1f} s",
            ]
        )


class Range:
    """A device that is updated and killed; its agent runs when nobody kills it."""

    def __init__(self, press: Press, device: Device, observer: Observer) -> None:
        self.press, self.device, self.observer = press, device, observer
        self.targets = [press.release(1, bands=QUICK), press.release(2, bands=QUICK)]
        self.bad = press.release(3, bands=BAD)
        self.tally, self.draw = Tally(), random.Random(1)
        self.generation, self.serves = 0, ""
        self.agent = device.start("agent")

    def update(self, target: str, kills: int, whole_s: float) -> float:
        """One update with so many kills at most; returns how long it took."""
        self.generation += 1
        digest, good = self.press.digests[target], target != self.bad
        right = digest if good else self.serves
        begun = last = time.monotonic()
        live.publish(self.observer, self.press.assign(target, self.generation))
        for _ in range(kills):
            self._wait(whole_s)
            self.agent.kill()
            self.agent.wait()
            over = self._look(digest)
            self.agent, last = self.device.start("agent"), time.monotonic()
            if over:
                break
        live.until(self._over, END_S, self.device.told)
        self.tally.slowest_s = max(self.tally.slowest_s, time.monotonic() - last)
        record = self.device.memory().record
        assert record is not None
        assert record.code is not None
        assert record.code.value == ("SUCCEEDED" if good else "ROLLED_BACK"), self.device.told()
        self.tally.updates[record.code.value] += 1
        assert self.device.serving() == right, self.device.told()
        took_s, self.serves = time.monotonic() - begun, right
        self._runs(right)
        return took_s

    def _wait(self, whole_s: float) -> None:
        """Until a moment that is drawn from the whole update, or from one of its states."""
        if self.draw.random() < 0.5:
            time.sleep(self.draw.uniform(0, whole_s))
            return
        state, deadline = self.draw.choice(list(State)), time.monotonic() + whole_s
        while time.monotonic() < deadline and not self._over():
            record = self.device.memory().record
            if record is not None and (record.generation, record.state) == (self.generation, state):
                break
            time.sleep(0.01)
        time.sleep(self.draw.uniform(0, 0.5))

    def _look(self, digest: str) -> bool:
        """Note what serves while the agent is dead, every byte of it; True when the update is over."""
        serves, record = self.device.serving(), self.device.memory().record
        assert serves in (self.serves, digest), f"{serves} serves"
        if serves:
            folder = self.device.root / "releases" / serves
            for name, stored in archive.read(folder).files.items():
                assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == stored.sha256
        mine = record is not None and record.generation == self.generation
        over = mine and record is not None and record.code is not None
        at = "before" if record is None or not mine else (record.code or record.state).value
        (self.tally.new if serves == digest != self.serves else self.tally.old)[at] += 1
        return over

    def _over(self) -> bool:
        record = self.device.memory().record
        return (
            record is not None and record.generation == self.generation and record.code is not None
        )

    def _runs(self, digest: str) -> None:
        """The runtime must answer with the engine that was built for what serves."""
        if not digest:
            return
        made = built.read(self.device.root, digest)
        assert made is not None
        topic, engine = wire.result("cam-1", "tiny"), made.pipelines[0].engine
        self.observer.messages.clear()
        live.until(lambda: self._answers(topic, engine), 30, self.device.told)

    def _answers(self, topic: str, engine: str) -> bool:
        with contextlib.suppress(IndexError):
            newest = wire.decode(wire.ResultMessage, self.observer.on(topic)[-1])
            return engine.startswith(newest.engine)
        return False


def kill_often(folder: Path, moments: int) -> None:
    press = Press(folder)
    with (
        broker.running(folder) as site,
        broker.observing(site.port) as observer,
        serving(press.public) as (address, _),
    ):
        device = Device(folder / "device", press.site.repository.first_root(), address, site.port)
        device.pipeline(seed=9)
        with device.running("runtime"):
            range_ = Range(press, device, observer)
            try:
                whole_s = max(range_.update(target, 0, 0.0) for target in range_.targets)
                turn = 0
                while range_.tally.kills < moments:
                    target = range_.bad if turn % 3 == 2 else range_.targets[turn % 3 % 2]
                    range_.update(target, 8, whole_s)
                    turn += 1
            finally:
                live.end(range_.agent)
        print(f"\n{range_.tally.table()}")
        assert range_.tally.kills >= moments


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_kill_at_2_random_moments(tmp_path: Path) -> None:
    kill_often(tmp_path, 2)


@pytest.mark.system
@pytest.mark.timeout(6 * 3600)
def test_a_kill_at_1000_random_moments(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Or at as many as --kills says."""
    kill_often(tmp_path, request.config.getoption("--kills"))
