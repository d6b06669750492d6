"""The judge: what is called worse, what is called chance, and what is told of it."""

from __future__ import annotations

import random
from typing import Any

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from edgetrt.update import prove
from edgetrt.update.built import Built, BuiltPipeline
from edgetrt.update.measure import Seen, above, figures, leaks, p99
from edgetrt.update.prove import Observed, judge
from edgetrt.update.record import Check, Figures, Verdict
from edgetrt.update.release import Bands, Part, Release

ENGINE = "ab" * 32
BANDS = Bands(fps_min=20, p99_ms_max=60, prove_s=10)
BEFORE = {"street": Figures(fps=30.0, p99_ms=20.0, frames=1800)}


def release(bands: Bands = BANDS) -> Release:
    part = Part(name="street", pipeline="street.yaml", recipe="r.yaml", bands=bands)
    return Release(name="street", version="1", pipelines=(part,), files={})


def built(*checks: Check) -> Built:
    part = BuiltPipeline(
        name="street",
        engine=ENGINE,
        backend="fake",
        precision="fp16",
        model="m",
        checks=checks,
    )
    return Built(digest="d" * 64, built_at=0.0, pipelines=(part,))


def well(**other: Any) -> Seen:
    """Thirty frames a second for ten seconds, 18 ms each."""
    told: dict[str, Any] = {
        "state": "running",
        "engine": ENGINE[:16],
        "span_s": 10.0,
        "silent_s": 0.2,
        "done": 300,
        "read": 300,
        "latencies_ms": [18.0] * 300,
    }
    return Seen(**{**told, **other})


def verdict(
    seen: Seen,
    bands: Bands = BANDS,
    before: dict[str, Figures] | None = None,
    **more: Any,
) -> Verdict | None:
    observed = Observed(pipelines={"street": seen}, watched_s=more.pop("watched_s", 14.0), **more)
    return judge(release(bands), built(), BEFORE if before is None else before, observed)


def wrong(found: Verdict | None) -> list[str]:
    assert found is not None
    return [check.name for check in found.checks if not check.ok]


def test_one_that_keeps_its_word_is_kept_with_every_check() -> None:
    found = verdict(well(), memory_mb=[200.0] * 30, temperature_c=60.0)

    assert wrong(found) == []
    assert found is not None
    assert found.ok
    assert [check.name for check in found.checks] == [
        "street: results",
        "street: engine",
        "street: fps",
        "street: p99",
        "street: fps against before",
        "street: p99 against before",
        "street: errors",
        "street: restarts",
        "memory growth",
    ]


def test_it_is_too_early_until_the_watch_is_over() -> None:
    assert verdict(well(span_s=9.9)) is None
    assert verdict(well(span_s=10.0)) is not None


def test_a_slow_pipeline_is_watched_longer_and_not_for_ever() -> None:
    rare = well(done=2, read=2, latencies_ms=[18.0, 18.0])
    assert verdict(rare, watched_s=89.0) is None
    assert wrong(verdict(rare, watched_s=90.0)) == ["street: results"]


def test_one_that_never_spoke_fails_and_says_so() -> None:
    found = judge(release(), built(), {}, Observed(watched_s=91.0, log=("the last line",)))

    assert wrong(found) == ["street: results"]
    assert found is not None
    assert "never reported" in found.checks[-1].value
    assert found.log == ("the last line",)


@pytest.mark.parametrize(
    ("seen", "name", "told"),
    [
        ({"starts": 1}, "street: runtime", "started again once"),
        ({"starts": 3}, "street: runtime", "started again 3 times"),
        ({"restarts": 3, "error": "NaN"}, "street: restarts", "3: NaN"),
        ({"state": "failed", "error": "no such tensor"}, "street: state", "no such tensor"),
        ({"silent_s": 31.0}, "street: runtime", "silent for 31 s"),
        ({"engine": "cd" * 8}, "street: engine", "cdcdcdcdcdcd"),
    ],
)
def test_what_no_watching_mends_ends_it_at_once(seen: dict[str, Any], name: str, told: str) -> None:
    found = verdict(well(span_s=1.0, done=30, read=30, **seen), watched_s=4.0, log=("x",))

    assert wrong(found) == [name]
    assert found is not None
    assert told in next(check.value for check in found.checks if not check.ok)
    assert found.log == ("x",)


def test_half_as_fast_is_worse_than_promised_and_than_before() -> None:
    slow = well(done=150, read=150, latencies_ms=[70.0] * 150, waited=0.0, busy=1.0)

    assert wrong(verdict(slow)) == [
        "street: fps",
        "street: p99",
        "street: fps against before",
        "street: p99 against before",
    ]


def test_within_its_band_and_much_worse_than_before_is_taken_back() -> None:
    worse = well(done=250, read=250, latencies_ms=[30.0] * 250, busy=1.0)
    wanted = ["street: fps against before", "street: p99 against before"]

    assert wrong(verdict(worse)) == wanted
    assert wrong(verdict(worse, before={})) == []
    assert wrong(verdict(worse, changed(BANDS, worse_percent=50))) == []
    assert wrong(verdict(worse, changed(BANDS, worse_percent=None))) == []


def test_a_camera_that_gives_less_is_not_the_engines_fault() -> None:
    night = {"done": 100, "read": 100, "latencies_ms": [18.0] * 100}

    found = verdict(well(**night, waited=0.8, busy=0.2))
    assert wrong(found) == []
    assert found is not None
    assert "all that its source gave" in next(
        c.value for c in found.checks if c.name.endswith("fps")
    )
    # The same figures with an engine at its limit, or with frames that were lost:
    assert "street: fps" in wrong(verdict(well(**night, waited=0.3, busy=0.95)))
    lossy = {**night, "read": 300, "dropped": 200}
    assert "street: fps" in wrong(verdict(well(**lossy, waited=0.8, busy=0.2)))


def test_a_rate_that_was_asked_for_is_enough() -> None:
    paced = well(done=49, read=300, dropped=251, latencies_ms=[18.0] * 49, rate_hz=5.0)

    assert wrong(verdict(paced)) == []
    assert "street: fps" in wrong(verdict(changed_rate(paced, 10.0)))


def changed_rate(seen: Seen, rate_hz: float) -> Seen:
    from dataclasses import replace

    return replace(seen, rate_hz=rate_hz)


def test_refused_frames_count_against_it() -> None:
    assert wrong(verdict(well(done=299, refused=1))) == ["street: errors"]
    assert wrong(verdict(well(done=299, refused=1), changed(BANDS, error_rate_max=0.01))) == []


def test_heat_and_memory_have_their_limits() -> None:
    bands = changed(BANDS, memory_mb_max=500, temperature_c_max=80)

    assert wrong(verdict(well(), bands, memory_mb=[501.0] * 30)) == ["memory"]
    assert wrong(verdict(well(), bands, temperature_c=80.5)) == ["temperature"]
    assert wrong(verdict(well(), bands)) == []


def test_what_grows_on_leaks_and_what_levels_off_does_not() -> None:
    steady = [200.0 + 2.0 * n for n in range(60)]
    starting = [200.0 + 60.0 * (1 - 0.9**n) for n in range(60)]

    assert leaks(steady, 60.0) == (True, 80.0)
    assert leaks(starting, 60.0)[0] is False
    assert leaks([200.0] * 60, 60.0) == (False, 0.0)
    assert leaks(steady, 10.0)[0] is False
    assert leaks([], 60.0) == (False, 0.0)
    assert wrong(verdict(well(), memory_mb=steady, watched_s=60.0)) == ["memory growth"]


def test_golden_checks_of_the_build_are_in_the_verdict() -> None:
    golden = Check(name="golden 1", ok=True, value="0.001", limit="0.02")
    seen = Observed(pipelines={"street": well()}, watched_s=14.0)

    found = judge(release(), built(golden), BEFORE, seen)

    assert found is not None
    assert found.checks[0].name == "street: golden 1"


@given(
    frames=st.integers(20, 4000),
    seed=st.integers(0, 2**32),
    level_ms=st.floats(1.0, 100.0),
)
def test_twice_as_slow_is_always_found(frames: int, seed: int, level_ms: float) -> None:
    draw = random.Random(seed)
    slow = [2 * level_ms * draw.uniform(0.9, 1.1) for _ in range(frames)]
    over, chance = above(slow, 1.1 * 1.1 * level_ms)

    assert over > chance


@given(seed=st.integers(0, 10_000))
def test_the_same_engine_again_is_rarely_called_worse(seed: int) -> None:
    """Against its own true 99th percentile; with 10 % of room next to never."""
    draw = random.Random(seed)
    frames = [draw.lognormvariate(3.0, 0.1) for _ in range(600)]
    limit = 1.1 * 25.35  # e^(3 + 2.326 * 0.1), and a tenth
    over, chance = above(frames, limit)

    assert over <= chance


def test_by_chance_means_one_in_a_hundred() -> None:
    draw = random.Random(5)
    found = 0
    for _ in range(2000):
        over, chance = above([draw.random() for _ in range(600)], 0.99)
        found += over > chance

    assert found / 2000 < 0.015


@given(st.lists(st.floats(0.1, 1000.0), min_size=1, max_size=500))
def test_p99_is_a_frame_that_at_most_one_in_a_hundred_exceeds(latencies: list[float]) -> None:
    limit = p99(latencies)

    assert limit in latencies
    assert sum(one > limit for one in latencies) <= 0.01 * len(latencies)


def test_figures_need_some_frames() -> None:
    assert figures(well(done=2)) is None
    assert figures(Seen()) is None
    assert figures(well()) == Figures(fps=30.0, p99_ms=18.0, frames=300)


@given(
    done=st.integers(0, 1000),
    span_s=st.floats(0, 100),
    watched_s=st.floats(0, 1000),
    refused=st.integers(0, 10),
    restarts=st.integers(0, 5),
)
def test_there_is_always_a_verdict_in_the_end(
    done: int, span_s: float, watched_s: float, refused: int, restarts: int
) -> None:
    seen = well(done=done, read=done + refused, refused=refused, span_s=span_s, restarts=restarts)
    found = verdict(seen, watched_s=watched_s)

    assert found is not None or watched_s < 3 * BANDS.prove_s + 60
    if found is not None:
        assert found.ok is prove.ok(found.checks)
        assert all(check.value and check.limit for check in found.checks)
