"""SIGKILL of real processes during real updates: afterwards the old release serves or the new one, whole.

Everything is real: the agent and the runtime with ONNX Runtime, builds in child processes, a broker, a web
server, fsync. Updates of several kinds follow each other, and in each the agent is stopped at drawn moments:
of one of its states, before the n-th change of the disk or so many microseconds behind the state's begin.
There the agent is killed, or the runtime, or a build, or all of them, and started again at once. What
serves is read after each kill, and at the end of each update the right release must serve.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")
pytest.importorskip("onnxruntime")

from edgetrt import wire
from edgetrt.update import archive, built
from edgetrt.update.desired import Policy
from edgetrt.update.record import Record
from edgetrt.update.requests import Request, Requests
from tests import broker
from tests.broker import Observer
from tests.system import moments
from tests.system.moments import END, LABELS, WHO, Moment, Span, Stopper
from tests.update import live
from tests.update.device import Handler, serving
from tests.update.live import Device, Press

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]

QUICK = "{fps_min: 0.1, p99_ms_max: 60000, worse_percent: null, prove_s: 0}"
"""So that no load of the machine makes a good release a bad one."""
BAD = "{p99_ms_max: 0.001, prove_s: 0}"
END_S = 300.0
"""An update that has not ended so long after the last kill is stuck."""
MET_S = 240.0
MOST_STORES = 45
"""An update that was stored so often is left alone: at sixty the device calls it a loop, and rightly."""

STATES = {
    "good": tuple(label for label in LABELS if label != "ROLLBACK"),
    "bad": tuple(label for label in LABELS if label != "COMMIT"),
    "back": ("ROLLBACK", END),
}
STATES["fresh"] = STATES["good"]
"""What kinds of updates go through. `good`: its engine is in the cache. `fresh`: it has to be made. `bad`:
slower than it promises. `back`: a person takes the release back."""


class Drip(Handler):
    """A web server that takes its time with what is not small."""

    def setup(self) -> None:
        super().setup()
        write = self.wfile.write

        def slowly(data: Any) -> int:
            if len(data) < 20_000:
                return write(data)
            step = len(data) // 16 + 1
            for begin in range(0, len(data), step):
                write(data[begin : begin + step])
                time.sleep(0.01)
            return len(data)

        self.wfile.write = slowly  # type: ignore[method-assign]


@dataclass
class Tally:
    """What was tried and what came of it, a line each; runs that are given the same file go on with it.

    Args:
        path: of the file.
    """

    path: Path
    mine: int = 0
    lines: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path.exists():
            self.lines = [json.loads(line) for line in self.path.read_text().splitlines()]

    def add(self, **line: object) -> None:
        self.mine += "killed" in line
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def table(self) -> str:
        """The kill table, of everything that is in the file."""
        cells: Counter[tuple[str, str]] = Counter()
        for line in self.lines:
            if "killed" in line:
                cells.update((line["in"], line[column]) for column in ("killed", "serves"))
        columns = (*WHO, "old", "new")
        rows = {at: [cells[at, column] for column in columns] for at in LABELS}
        total = [sum(row[n] for row in rows.values()) for n in range(len(columns))]
        updates = [line for line in self.lines if "code" in line]
        stuck = sum("fault" in line for line in self.lines)
        ends = Counter(f"{line['kind']} {line['code']}" for line in updates)
        slowest_s = max((line["ended_s"] for line in updates), default=0.0)
        head = ["killed in", *WHO, "old serves", "new serves"]
        body = [[at, *map(str, row)] for at, row in (*rows.items(), ("total", total))]
        told = [f"| {' | '.join(row)} |" for row in (head, *body)]
        return "\n".join(
            [
                told[0],
                "|---" * len(head) + "|",
                *told[1:],
                f"{sum(total[-2:])} moments, stuck or wrong: {stuck}",
                f"{len(updates)} updates: "
                + ", ".join(f"{count} {end}" for end, count in sorted(ends.items())),
                f"slowest to end after its last kill: {slowest_s:.1f} s",
            ]
        )


@dataclass
class Update:
    """One update on its way.

    Attributes:
        kind: of `STATES`.
        target: in the repository; empty for `back`.
        before, goal: digests of what serves before it, and behind its switch.
        generation: of its assignment.
        met: the moments at which something was killed.
    """

    kind: str
    target: str
    before: str
    goal: str
    generation: int
    met: list[Moment] = field(default_factory=list)

    def right_ends(self) -> dict[str, str]:
        """Codes with which it may end, with what serves then."""
        if self.kind == "back":
            return {"ROLLED_BACK": self.goal}
        ends = {"SUCCEEDED": self.goal} if self.kind != "bad" else {"ROLLED_BACK": self.before}
        killed = {(one.label, one.who) for one in self.met}
        if killed & {("ACTIVATE", "runtime"), ("PROVE", "runtime")}:
            ends["ROLLED_BACK"] = self.before  # a runtime that dies on trial is no good
        if any(who == "build" for _, who in killed):
            ends |= {"FAILED": self.before, "REJECTED": self.before}
        return ends


class Range:
    """A device that is updated and killed; its processes run when nobody kills them."""

    def __init__(
        self, press: Press, device: Device, observer: Observer, library: Path, tally: Tally
    ) -> None:
        self.press, self.device, self.observer, self.tally = press, device, observer, tally
        self.stopper = Stopper(device.folder / "moment", library, device.root)
        self.good = [press.release(1, bands=QUICK), press.release(2, bands=QUICK)]
        self.good.append(press.release(3, bands=QUICK, ballast_mb=40))
        self.bad = press.release(4, bands=BAD)
        self.seed, self.number, self.generation, self.fresh = 0, 0, 0, 100
        self.draw = random.Random(0)
        self.spans: dict[tuple[str, str], Span] = {}
        self.runtime = device.start("runtime")
        self._start_agent()

    def close(self) -> None:
        for process in (self.agent, self.runtime):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            live.end(process)

    def run(self, seed: int, kills: int) -> None:
        """Kill so often, in as many updates as it takes."""
        self.seed, self.draw = seed, random.Random(seed)
        for kind in ("good", "good", "back", "good", "bad", "fresh"):
            self.update(kind, [], measured=True)
        while self.tally.mine < kills:
            kind = self.draw.choices(("good", "fresh", "bad", "back"), (10, 3, 3, 4))[0]
            if kind != "back" or self.device.memory().previous:
                self.update(kind, self._plan(kind, kills - self.tally.mine))

    def update(self, kind: str, plan: list[Moment], measured: bool = False) -> None:
        """One update with kills at these moments, as far as it comes by them."""
        self.number += 1
        mine = self._new(kind)
        try:
            self._go(mine, plan)
        except AssertionError as fault:
            done = ", ".join(map(str, mine.met))
            self.tally.add(seed=self.seed, update=self.number, kind=kind, fault=done)
            told = f"update {self.number} of seed {self.seed}: {fault}\n"
            again = f"to repeat it: --plan '{kind}: {', '.join(map(str, plan))}'; killed: {done}"
            raise AssertionError(told + again) from fault
        if measured:
            self.spans |= {(kind, span.label): span for span in self.stopper.spans()}

    def _new(self, kind: str) -> Update:
        before, target = self.device.serving(), ""
        if kind == "back":
            return Update(kind, "", before, self.device.memory().previous, self.generation)
        self.generation += 1
        if kind == "good":
            kept = (before, self.device.memory().previous)
            gone = [one for one in self.good if self.press.digests[one] not in kept]
            target = self.draw.choice(gone)
        elif kind == "fresh":
            self.fresh += 1
            target = self.press.release(self.fresh, bands=QUICK)
        else:
            target = self.bad
        return Update(kind, target, before, self.press.digests[target], self.generation)

    def _plan(self, kind: str, most: int) -> list[Moment]:
        """Moments for one update, more of them where there were fewer so far."""
        had = Counter(line["in"] for line in self.tally.lines if "killed" in line)
        labels = [label for label in STATES[kind] if label != END]
        weights = [1 / (5 + had[label]) for label in labels]
        count = min(most, self.draw.randint(1, 4) if kind == "back" else self.draw.randint(4, 9))
        drawn = self.draw.choices(labels, weights, k=count)
        if self.draw.random() < 10 / (10 + had[END]) + 0.2:
            drawn = [*drawn[1:], END]
        return [self._moment(kind, label) for label in sorted(drawn, key=LABELS.index)]

    def _moment(self, kind: str, label: str) -> Moment:
        """A moment of a state, by its measured length."""
        who = self.draw.choices(WHO, (9, 2, 3 if label == "BUILD" else 0, 6))[0]
        span = self.spans.get((kind, label), Span(label, 0, 500_000))
        if label != END and self.draw.random() < 0.5:
            return Moment(label, self.draw.randint(0, span.changes), -1, who)
        return Moment(label, None, round(self.draw.uniform(0, 1.05 * span.us)), who)

    def _go(self, mine: Update, plan: list[Moment]) -> None:
        self.stopper.forget()
        self.stopper.spans()
        self.observer.messages.clear()
        if plan:
            self.stopper.arm(plan[0])
        if mine.kind == "back":
            wish = Request(what="rollback", digest=mine.before)
            Requests(self.device.root).ask(wish)
        else:
            policy = Policy(lock_max_s=0.0)
            envelope = self.press.assign(mine.target, mine.generation, policy=policy)
            live.publish(self.observer, envelope)
        last = time.monotonic()
        for moment, following in zip(plan, [*plan[1:], None], strict=False):
            record = self.device.memory().record
            if record is None or not self._is(mine, record) or record.stores < MOST_STORES:
                met = self.stopper.met(moment, MET_S, self._assert_alive)
                assert met is not None, f"{moment}: never came by\n{self.device.told()}"
                if met:
                    self._kill(mine, moment, following)
                    last = time.monotonic()
                    continue
            if following is not None:
                self.stopper.arm(following)
        self._end(mine, last)

    def _kill(self, mine: Update, moment: Moment, following: Moment | None) -> None:
        """A process stands still: kill who is to be killed, look, and start it again."""
        begun = moments.descendants(self.agent.pid)
        building = [pid for pid in begun if moments.builds(pid)]
        if moment.who == "build" and not building:  # its end was just about to be seen
            moment = Moment(moment.label, moment.change, moment.after_us, "agent")
        if moment.who in ("agent", "all"):
            self.agent.kill()
        if moment.who in ("runtime", "all"):
            self.runtime.kill()
        for pid in {"build": building, "all": begun}.get(moment.who, []):
            moments.send(pid, signal.SIGKILL)
        for pid in begun:
            moments.send(pid, signal.SIGCONT)
        gone = {"agent": [self.agent], "runtime": [self.runtime], "all": [self.agent, self.runtime]}
        for process in gone.get(moment.who, []):
            process.wait(30)
        mine.met.append(moment)
        self._note(mine, moment)
        if following is not None:
            self.stopper.arm(following)
        self._revive(moment.who)

    def _revive(self, who: str) -> None:
        late_s = self.draw.uniform(0, 0.4)
        if who == "all" and self.draw.random() < 0.5:
            self.runtime = self.device.start("runtime")
            time.sleep(late_s)
        if who in ("agent", "all"):
            self._start_agent()
        else:
            self.agent.send_signal(signal.SIGCONT)
        if who in ("runtime", "all") and self.runtime.poll() is not None:
            time.sleep(late_s)
            self.runtime = self.device.start("runtime")

    def _start_agent(self) -> None:
        self.agent = self.device.start("agent", **self.stopper.environment)

    def _note(self, mine: Update, moment: Moment) -> None:
        """Write down what serves while nobody works on the update, every byte of it looked at."""
        serves, record = self.device.serving(), self.device.memory().record
        assert serves in (mine.before, mine.goal), f"{serves} serves"
        self._assert_whole(serves)
        at = "VERIFY"
        if record is not None and self._is(mine, record):
            at = END if record.code else record.state.value
        self.tally.add(
            seed=self.seed,
            update=self.number,
            kind=mine.kind,
            moment=str(moment),
            killed=moment.who,
            serves="new" if serves == mine.goal != mine.before else "old",
            **{"in": at},
        )

    def _assert_whole(self, digest: str) -> None:
        if digest:
            folder = self.device.root / "releases" / digest
            for name, stored in archive.read(folder).files.items():
                found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
                assert found == stored.sha256, f"{name} of {digest} is torn"

    def _assert_tidy(self) -> None:
        """No half of a release is left, and no half of another file from long ago."""
        assert not list((self.device.root / "releases").glob(".new-*"))
        begun = [path.lstat().st_mtime for path in self.device.root.glob(".new-*")]
        assert all(time.time() - at < 1200 for at in begun)

    def _is(self, mine: Update, record: Record) -> bool:
        if mine.kind == "back":
            asked = Requests(self.device.root).any()
            return record.by_hand and record.digest == mine.before and not asked
        return record.generation == mine.generation and not record.by_hand

    def _over(self, mine: Update) -> bool:
        self._assert_alive()
        record = self.device.memory().record
        return record is not None and self._is(mine, record) and record.code is not None

    def _assert_alive(self) -> None:
        for process in (self.agent, self.runtime):
            assert process.poll() is None, f"a process ended by itself\n{self.device.told()}"

    def _end(self, mine: Update, last: float) -> None:
        """It must come to the right end by itself, say so, and the right release must answer."""
        live.until(lambda: self._over(mine), END_S, self.device.told)
        ended_s = time.monotonic() - last
        record = self.device.memory().record
        assert record is not None
        assert record.code is not None
        ends, serves = mine.right_ends(), self.device.serving()
        assert record.code.value in ends, f"{record.code}\n{self.device.told()}"
        assert serves == ends[record.code.value], f"{record.code}, {serves}\n{self.device.told()}"
        self._assert_whole(serves)
        if record.code.value == "SUCCEEDED":
            self._assert_tidy()
        told = record.code.value, serves
        live.until(lambda: self._reported() == told, 60, self.device.told)
        self.observer.messages.clear()
        self._runs(serves)
        self.tally.add(
            seed=self.seed,
            update=self.number,
            kind=mine.kind,
            code=record.code.value,
            reason=record.reason,
            stores=record.stores,
            ended_s=round(ended_s, 1),
        )

    def _reported(self) -> tuple[str, str]:
        """What the device said last of how its update ended, and what serves."""
        found = live.reports(self.observer)
        return (found[-1].code, found[-1].serving) if found else ("", "")

    def _runs(self, digest: str) -> None:
        """The runtime must answer with the engine that was built for what serves."""
        if not digest:
            return
        made = built.serving(self.device.root, digest)
        topic, engine = wire.result("cam-1", "tiny"), made.pipelines[0].engine
        live.until(lambda: self._answers(topic, engine), 60, self.device.told)

    def _answers(self, topic: str, engine: str) -> bool:
        with contextlib.suppress(IndexError):
            newest = wire.decode(wire.ResultMessage, self.observer.on(topic)[-1])
            return engine.startswith(newest.engine)
        return False


@contextmanager
def ranged(folder: Path, tally: Tally) -> Iterator[Range]:
    press = Press(folder)
    with (
        broker.running(folder) as site,
        broker.observing(site.port) as observer,
        serving(press.public, Drip) as (address, _),
    ):
        device = Device(folder / "device", press.site.repository.first_root(), address, site.port)
        device.pipeline(seed=9)
        range_ = Range(press, device, observer, moments.compiled(folder), tally)
        try:
            yield range_
        finally:
            range_.close()
            print(f"\n{tally.table()}")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_kill_at_2_random_moments(tmp_path: Path) -> None:
    tally = Tally(tmp_path / "tally")
    with ranged(tmp_path, tally) as range_:
        plan = ["STAGE change 5 agent", "COMMIT change 1 all"]
        range_.update("good", [])
        range_.update("good", [Moment.parse(one) for one in plan])
    assert tally.mine == 2


@pytest.mark.system
@pytest.mark.timeout(6 * 3600)
def test_a_kill_at_1000_random_moments(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Or at as many as --kills says, drawn by --seed, or at those of one --plan."""
    option = request.config.getoption
    tally = Tally(Path(option("--tally") or tmp_path / "tally"))
    seed = (
        random.SystemRandom().randrange(1 << 32) if option("--seed") is None else option("--seed")
    )
    with ranged(tmp_path, tally) as range_:
        if option("--plan"):
            kind, _, plan = option("--plan").partition(":")
            for before in ("good", "good"):
                range_.update(before, [])
            range_.update(kind, [Moment.parse(one) for one in plan.split(",")])
        else:
            range_.run(seed, option("--kills"))
            assert tally.mine >= option("--kills")
