"""Builds by units and switches by asking: every way a build can end, and every answer of a runtime."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from edgetrt import wire
from edgetrt.agent.engines import UnitEngines
from edgetrt.app.updates import ChildWorkers
from edgetrt.asking import Answer, look_again
from edgetrt.errors import UpdateError
from edgetrt.link import Receiver, Sender
from edgetrt.update import built
from edgetrt.update.built import Built, BuiltPipeline, Failure
from edgetrt.update.release import Bands, Part, Release

DIGEST, ENGINE = "d" * 64, "e" * 64
UNIT = f"build@{DIGEST}"
RELEASE = Release(
    name="street",
    version="1",
    pipelines=(Part(name="street", pipeline="s.yaml", recipe="r.yaml"),),
    files={},
)


class Units:
    """A supervisor whose units do what a test says."""

    def __init__(self, restart: Callable[[], None] = lambda: None) -> None:
        self.states: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.asked: list[str] = []
        self.restarting = restart

    def start(self, unit: str) -> None:
        self.asked.append(f"start {unit}")
        self.states[unit] = "activating"

    def restart(self, unit: str) -> None:
        self.asked.append(f"restart {unit}")
        self.restarting()

    def stop(self, unit: str) -> None:
        self.asked.append(f"stop {unit}")
        self.states[unit] = "inactive"

    def state(self, unit: str) -> str:
        return self.states.get(unit, "inactive")

    def reason(self, unit: str) -> str:
        return self.reasons.get(unit, "")


def made(failure: Failure | None = None) -> Built:
    part = BuiltPipeline(name="street", engine=ENGINE, backend="fake", precision="fp16", model="m")
    return Built(digest=DIGEST, built_at=1.0, pipelines=(part,), failure=failure)


def asking(socket: Path) -> Callable[[int], Answer]:
    """As the agent asks."""
    return lambda shadow: look_again(socket, shadow=shadow)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.root, self.units = folder, Units()
        self.release = folder / "releases" / DIGEST
        self.runtime = folder / "runtime.sock"
        self.engines = UnitEngines(
            folder,
            self.units,
            asking(self.runtime),
            sleep=lambda _: None,
            start_s=1,
        )

    def build(self) -> Built | None:
        return self.engines.build(self.release, RELEASE)

    def ends(self, state: str, document: Built | None, reason: str = "") -> None:
        if document is not None:
            built.write(self.root, document)
        self.units.states[UNIT], self.units.reasons[UNIT] = state, reason


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_build_is_begun_once_and_asked_until_it_ends(bench: Bench) -> None:
    assert [bench.build(), bench.build(), bench.build()] == [None, None, None]
    bench.ends("inactive", made())

    assert bench.build() == made()
    assert bench.units.asked == [f"start {UNIT}"]


def test_what_an_earlier_build_left_is_not_taken_for_this_one(bench: Bench) -> None:
    built.write(bench.root, made())
    assert bench.build() is None
    bench.ends("failed", None, "core-dump dumped SEGV")

    with pytest.raises(UpdateError, match="its build died: core-dump dumped SEGV") as caught:
        bench.build()
    assert caught.value.code == "build-died"


def test_a_build_that_refused_says_why(bench: Bench) -> None:
    failure = Failure(code="golden", message="street: differs by 0.5")
    bench.build()
    bench.ends("failed", made(failure), "exit-code exited 65")

    found = bench.build()
    assert found is not None
    assert found.failure == failure


def test_one_that_the_kernel_killed_says_that_memory_was_short(bench: Bench) -> None:
    bench.build()
    bench.ends("failed", None, "oom-kill killed KILL")

    with pytest.raises(UpdateError) as caught:
        bench.build()
    assert caught.value.code == "build-killed"
    assert "memory" in caught.value.hint


def test_a_build_that_ended_well_without_a_word_is_none(bench: Bench) -> None:
    bench.build()
    bench.ends("inactive", None)

    with pytest.raises(UpdateError, match="without a word"):
        bench.build()
    assert bench.build() is None
    assert bench.units.asked == [f"start {UNIT}"] * 2


def test_a_build_that_outlived_the_agent_is_gone_on_with(bench: Bench) -> None:
    bench.units.states[UNIT] = "activating"
    assert bench.build() is None
    bench.ends("inactive", made())

    assert bench.build() == made()
    assert bench.units.asked == []


def test_a_build_that_nobody_wants_is_ended(bench: Bench) -> None:
    bench.build()
    bench.engines.rest()
    bench.engines.rest()

    assert bench.units.asked == [f"start {UNIT}", f"stop {UNIT}"]


@contextmanager
def answering(path: Path, answer: wire.ActivatedMessage) -> Iterator[list[wire.ActivateMessage]]:
    """A runtime that says this to whoever asks; yields what it was asked."""
    stop, heard = threading.Event(), list[wire.ActivateMessage]()

    def serve(inbox: Receiver) -> None:
        while not stop.is_set():
            datagram = inbox.receive(0.05)
            if datagram is None:
                continue
            asked = wire.decode_link(datagram)
            assert isinstance(asked, wire.ActivateMessage)
            heard.append(asked)
            with Sender(path.with_name(asked.reply)) as out:
                out.send(wire.encode(answer))

    with Receiver(path) as inbox:
        thread = threading.Thread(target=serve, args=(inbox,))
        thread.start()
        try:
            yield heard
        finally:
            stop.set()
            thread.join()


def told(engine: str, error: str = "", agreement: float | None = None) -> wire.ActivatedMessage:
    taken = wire.Taken(
        pipeline="street", did="swapped", engine=engine, error=error, agreement=agreement
    )
    return wire.ActivatedMessage(pipeline="", engine="", error=error, pipelines=(taken,))


def test_a_switch_is_done_when_every_pipeline_runs_what_was_built(bench: Bench) -> None:
    built.write(bench.root, made())
    with answering(bench.runtime, told(ENGINE[:16])):
        bench.engines.activate(bench.release, RELEASE)
        bench.engines.restore(None)

    assert bench.units.asked == []


@pytest.mark.parametrize(
    ("least", "ok", "limit"),
    [(None, True, "told only"), (0.9, True, ">= 90.0%"), (0.95, False, ">= 95.0%")],
)
def test_in_how_far_both_agreed_on_live_frames_is_told(
    bench: Bench, least: float | None, ok: bool, limit: str
) -> None:
    part = RELEASE.pipelines[0]
    bands = Bands(shadow_frames=30, agreement_min=least)
    release = replace(RELEASE, pipelines=(replace(part, bands=bands),))
    built.write(bench.root, made())
    with answering(bench.runtime, told(ENGINE[:16], agreement=0.925)) as asked:
        (check,) = bench.engines.activate(bench.release, release)

    assert (check.ok, check.value, check.limit) == (ok, "92.5% on live frames", limit)
    assert [one.shadow for one in asked] == [30]


def test_another_engine_than_the_built_one_is_no_switch(bench: Bench) -> None:
    built.write(bench.root, made())
    with (
        answering(bench.runtime, told("a" * 16)),
        pytest.raises(UpdateError, match="runs aaaaaaaaaaaa, the release has eeeeeeeeeeee"),
    ):
        bench.engines.activate(bench.release, RELEASE)


def test_a_runtime_that_refuses_says_why(bench: Bench) -> None:
    built.write(bench.root, made())
    with answering(bench.runtime, told("", "street: no such tensor")):
        with pytest.raises(UpdateError, match="no such tensor"):
            bench.engines.activate(bench.release, RELEASE)
        with pytest.raises(UpdateError, match="the way back"):
            bench.engines.restore(bench.release)


def test_a_runtime_that_does_not_run_is_started(bench: Bench) -> None:
    built.write(bench.root, made())

    with pytest.raises(UpdateError, match="no runtime runs here") as told:
        bench.engines.activate(bench.release, RELEASE)
    assert "edgetrt up" in told.value.hint
    bench.engines.restore(bench.release)

    assert bench.units.asked == ["restart runtime", "restart runtime"]


def test_who_cannot_start_it_waits_for_who_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        ChildWorkers().restart("runtime")

    bench = Bench(tmp_path)
    bench.units.restarting = refuse
    bench.engines.restore(None)

    assert bench.units.asked == ["restart runtime"]
    assert "cannot start the runtime on this machine. Start it: " in caplog.text


def test_nothing_is_waited_for_when_the_agent_stops(tmp_path: Path) -> None:
    units = Units()
    engines = UnitEngines(tmp_path, units, asking(tmp_path / "runtime.sock"), lambda: True)
    engines.restore(None)

    assert units.asked == []


def test_the_same_release_again_waits_for_the_end_of_the_build_before(bench: Bench) -> None:
    bench.build()
    bench.engines.rest()
    bench.units.states[UNIT] = "activating"  # the end that was asked for is still on its way

    assert bench.build() is None
    assert bench.units.asked == [f"start {UNIT}", f"stop {UNIT}"]
    bench.units.states[UNIT] = "failed"
    assert bench.build() is None
    assert bench.units.asked[-1] == f"start {UNIT}"
