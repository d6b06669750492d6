"""What is counted of a pipeline, and what is not: the engine before, the first seconds, a process before."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from edgetrt import wire
from edgetrt.agent.proving import BoardHeadroom, WatchProver
from edgetrt.agent.watch import Evenly, Watch
from edgetrt.types import BoardState, Counters, StageStats
from edgetrt.update.built import Built, BuiltPipeline
from edgetrt.update.ports import Trial
from edgetrt.update.record import Figures
from edgetrt.update.release import Bands, Part, Release

OLD, NEW = "0" * 16, "1" * 16


def report(done: int = 0, engine: str = NEW, **more: Any) -> wire.PipelineReport:
    told: dict[str, Any] = {
        "pipeline": "street",
        "state": "running",
        "backend": "fake",
        "engine": engine,
        "fps": 10.0,
        "latency": None,
        "stages": {},
        "counters": Counters(read=done, done=done),
    }
    return wire.PipelineReport(**{**told, **more})


def frame(latency_ms: float, engine: str = NEW) -> wire.FrameResult:
    return wire.FrameResult(
        pipeline="street",
        frame=0,
        mono_ns=0,
        size=(8, 6),
        engine=engine,
        latency_ms=latency_ms,
        objects=(),
    )


class Runtime:
    """Ten frames a second, a report each second, by a clock of our own."""

    def __init__(self) -> None:
        self.now_s, self.done, self.process_ns = 0.0, 0, 1
        self.watch = Watch(lambda: round(self.now_s * 1e9), lambda: 1_795_000_000.0)

    def run(self, seconds: int, latency_ms: float = 20.0, engine: str = NEW, **more: Any) -> None:
        for _ in range(seconds):
            for _ in range(10):
                self.now_s += 0.1
                self.done += 1
                self.watch.result(frame(latency_ms, engine))
            told = {"process_ns": self.process_ns, **more}
            self.watch.report(report(self.done, engine, **told))


def test_figures_are_of_the_last_minute() -> None:
    runtime = Runtime()
    runtime.run(70, 90.0)
    assert runtime.watch.figures({})["street"].p99_ms == 90.0
    runtime.run(125, 20.0)

    found = runtime.watch.figures({})["street"]
    assert (found.fps, found.p99_ms, found.frames) == (10.0, 20.0, 600)


def test_figures_soon_after_the_start_are_of_what_there_is() -> None:
    runtime = Runtime()
    assert runtime.watch.figures({}) == {}
    runtime.run(4)
    assert runtime.watch.figures({}) == {}
    runtime.run(1)

    assert runtime.watch.figures({})["street"].fps == 10.0


def test_frames_of_the_engine_before_and_of_the_first_seconds_do_not_count() -> None:
    runtime = Runtime()
    runtime.run(5, 500.0, OLD)
    runtime.watch.begin({"street": NEW * 4})
    runtime.run(2, 500.0, OLD)
    runtime.run(3, 400.0, NEW)
    runtime.run(1, 400.0, NEW)
    runtime.run(9, 20.0, NEW)

    (seen,), watched_s = runtime.watch.trial({})[0].values(), runtime.watch.trial({})[1]
    assert seen.span_s == pytest.approx(9.0)
    assert seen.fps == pytest.approx(10.0)
    assert seen.engine == NEW
    assert sum(latency == 20.0 for latency in seen.latencies_ms) == 90
    assert len(seen.latencies_ms) <= 91
    assert watched_s == pytest.approx(15.0)


def test_a_process_that_began_anew_is_noticed_and_its_frames_are_added() -> None:
    runtime = Runtime()
    runtime.watch.begin({"street": NEW})
    runtime.run(10)
    runtime.done, runtime.process_ns = 0, 2
    runtime.run(10)

    (seen,) = runtime.watch.trial({})[0].values()
    assert seen.starts == 1
    assert seen.fps == pytest.approx(10.0, rel=0.2)


def test_a_process_that_ends_before_its_first_word_is_noticed_as_well() -> None:
    runtime = Runtime()
    runtime.run(5, engine=OLD)
    runtime.watch.begin({"street": NEW})
    runtime.done, runtime.process_ns = 0, 2
    runtime.run(10)

    assert runtime.watch.trial({})[0]["street"].starts == 1


def test_a_pipeline_that_was_put_together_anew_is_no_new_process() -> None:
    runtime = Runtime()
    runtime.run(5, engine=OLD)
    runtime.watch.begin({"street": NEW})
    runtime.done = 0
    runtime.run(10)

    assert runtime.watch.trial({})[0]["street"].starts == 0


def test_silence_is_told() -> None:
    runtime = Runtime()
    runtime.watch.begin({"street": NEW, "yard": NEW})
    runtime.run(5)
    runtime.now_s += 31.0

    seen, _ = runtime.watch.trial({})
    assert seen["street"].silent_s == pytest.approx(31.0)
    assert seen["yard"].silent_s == pytest.approx(36.0)
    assert seen["yard"].done == 0


def test_a_rate_from_afar_is_the_one_that_counts() -> None:
    runtime = Runtime()
    runtime.watch.begin({"street": NEW})
    runtime.run(8, settings={"rate_hz": 10.0}, generation=1)

    assert runtime.watch.trial({"street": 30.0})[0]["street"].rate_hz == 10.0


def test_what_the_pipelines_said_is_kept_for_the_verdict() -> None:
    runtime = Runtime()
    runtime.run(3)
    runtime.run(2, state="backoff", error="NaN")

    assert [line.split(" ", 1)[1] for line in runtime.watch.log] == [
        "street running",
        "street backoff: NaN",
    ]


def test_shares_of_a_frames_time_are_taken_from_the_stages() -> None:
    runtime = Runtime()
    runtime.watch.begin({"street": NEW})
    stages = {"read": StageStats(50.0, 60.0, 60.0), "infer": StageStats(30.0, 30.0, 30.0)}
    runtime.run(8, stages=stages)

    (seen,) = runtime.watch.trial({})[0].values()
    assert seen.waited == pytest.approx(0.6)
    assert seen.busy == pytest.approx(0.3)


def trial(entered_at: float = 1.0, **bands: Any) -> Trial:
    part = Part(name="street", pipeline="s.yaml", recipe="r.yaml", bands=Bands(prove_s=5, **bands))
    made = BuiltPipeline(name="street", engine=NEW * 4, backend="fake", precision="fp16", model="m")
    return Trial(
        digest="d" * 64,
        release=Release(name="street", version="1", pipelines=(part,), files={}),
        built=Built(digest="d" * 64, built_at=0.0, pipelines=(made,)),
        before={"street": Figures(fps=10.0, p99_ms=20.0, frames=600)},
        entered_at=entered_at,
    )


def test_the_prover_watches_then_judges() -> None:
    runtime = Runtime()
    runtime.run(5, engine=OLD)
    prover = WatchProver(runtime.watch, board=lambda: BoardState(temperatures_c={"gpu": 50.0}))
    assert prover.look(trial()) is None
    runtime.run(5, rss_bytes=100_000_000)
    assert prover.look(trial()) is None
    runtime.run(6, rss_bytes=100_000_000)

    verdict = prover.look(trial(temperature_c_max=60.0))
    assert verdict is not None
    assert verdict.ok, verdict
    assert {check.name for check in verdict.checks} >= {"temperature", "memory growth"}


def test_a_trial_after_a_restart_is_begun_anew() -> None:
    runtime = Runtime()
    prover = WatchProver(runtime.watch)
    prover.look(trial(1.0))
    runtime.run(20, 500.0)
    assert prover.look(trial(2.0)) is None
    runtime.run(20, 20.0)

    verdict = prover.look(trial(2.0))
    assert verdict is not None
    assert verdict.ok, verdict


def test_a_board_without_headroom_says_what_it_lacks() -> None:
    state = BoardState()
    board = BoardHeadroom(lambda: state, available_bytes=lambda: 200_000_000)
    assert board.lacking() == ""
    state = BoardState(headroom_c=2.0)
    assert board.lacking().startswith("heat: ")
    state = BoardState(overcurrents=3)
    assert board.lacking() == ""
    state = BoardState(overcurrents=4)
    assert board.lacking().startswith("power: ")
    assert board.lacking() == ""
    full = BoardHeadroom(BoardState, available_bytes=lambda: 50_000_000)
    assert full.lacking() == "memory: less than 100 MB available"
    assert BoardHeadroom(BoardState, available_bytes=lambda: None).lacking() == ""


def test_memory_is_kept_evenly_over_the_whole_time() -> None:
    kept = Evenly(8)
    for value in range(1000):
        kept.put(float(value))
    steps = {b - a for a, b in zip(kept.values, kept.values[1:], strict=False)}
    assert len(steps) == 1
    assert kept.values[0] == 0.0
    assert kept.values[-1] > 800
