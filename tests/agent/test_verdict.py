"""What makes a device degraded or failing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetrt.agent.health import Trends, Window
from edgetrt.agent.verdict import STATES, Demand, Facts, judge, stuck
from edgetrt.config import HealthConfig
from edgetrt.types import BoardState, Counters, StageStats
from edgetrt.wire import (
    AgentReport,
    ClockReport,
    MachineReport,
    OutboxReport,
    PipelineReport,
    UpdateReport,
)

LIMITS = HealthConfig(latency_ms=100.0)
GB = 10**9
SECOND = 1_000_000_000


def report(**fields: Any) -> PipelineReport:
    known = {
        "pipeline": "street",
        "state": "running",
        "backend": "fake",
        "engine": "0123abcd",
        "fps": 10.0,
        "latency": StageStats(10.0, 20.0, 11.0),
        "stages": {},
        "counters": Counters(read=1000, done=1000),
    }
    return PipelineReport(**{**known, **fields})


def facts(*pipelines: PipelineReport, **fields: Any) -> Facts:
    known = {
        "agent": AgentReport(rss_bytes=30 * 10**6, uptime_s=100.0),
        "demands": {"street": Demand(10.0, "0123abcd" * 4)},
        "outbox": OutboxReport(store="disk", limit_bytes=1000, bytes={"result": 10}),
        "machine": MachineReport(
            memory_total=8 * GB, memory_available=4 * GB, disk_total=50 * GB, disk_free=20 * GB
        ),
        "clock": ClockReport(synced=True),
    }
    return Facts(pipelines=pipelines or (report(),), **{**known, **fields})


def codes(found: Facts) -> list[tuple[str, str, str]]:
    verdict = judge(found, LIMITS)
    return [(reason.state, reason.code, reason.about) for reason in verdict.reasons]


def test_a_device_that_does_what_it_should_is_well() -> None:
    assert judge(facts(), LIMITS) == judge(facts(report(state="ended", age_s=1e6)), LIMITS)
    assert (judge(facts(), LIMITS).state, codes(facts())) == ("ok", [])
    unknown = facts(
        machine=MachineReport(),
        clock=ClockReport(),
        agent=AgentReport(rss_bytes=None, uptime_s=1.0),
    )
    assert codes(unknown) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"state": "failed", "error": "no such file"}, ("failing", "failed")),
        ({"state": "backoff", "error": "lost"}, ("degraded", "backoff")),
        ({"age_s": 15.1}, ("failing", "silent")),
        ({"fps": 7.9}, ("degraded", "rate")),
        ({"fps": 0.7}, ("failing", "rate")),
        ({"latency": StageStats(50.0, 100.1, 60.0)}, ("degraded", "latency")),
        ({"counters": Counters(read=1000, done=980, refused=20)}, ("degraded", "refused")),
        ({"engine": "ffff"}, ("degraded", "engine")),
    ],
)
def test_a_pipeline_s_fault_is_told(fields: dict[str, Any], expected: tuple[str, str]) -> None:
    found = facts(report(**fields))
    assert codes(found) == [(*expected, "street")]
    assert judge(found, LIMITS).state == expected[0]
    (reason,) = judge(found, LIMITS).reasons
    assert fields.get("error", "") in reason.text


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"demands": {"street": Demand(), "yard": Demand()}}, ("failing", "missing", "yard")),
        ({"restarts": {"street": 4}}, ("degraded", "restarts", "street")),
        ({"dropped": 3}, ("degraded", "lost", "outbox")),
        ({"offline_s": 61.0}, ("degraded", "offline", "broker")),
        ({"clock": ClockReport(synced=False)}, ("degraded", "clock", "clock")),
        (
            {"agent": AgentReport(rss_bytes=61 * 10**6, uptime_s=1.0)},
            ("degraded", "memory", "agent"),
        ),
        ({"outbox": OutboxReport(store="disk", error="full")}, ("degraded", "store", "outbox")),
        (
            {
                "outbox": OutboxReport(
                    store="disk", limit_bytes=100, bytes={"event": 40, "result": 41}
                )
            },
            ("degraded", "depth", "outbox"),
        ),
        ({"outbox": OutboxReport(unheard=True)}, ("degraded", "unheard", "broker")),
        (
            {"machine": MachineReport(memory_total=100, memory_available=4)},
            ("degraded", "memory", "machine"),
        ),
        ({"machine": MachineReport(disk_total=100, disk_free=1)}, ("failing", "disk", "machine")),
    ],
)
def test_the_device_s_fault_is_told(fields: dict[str, Any], expected: tuple[str, str, str]) -> None:
    assert codes(facts(**fields)) == [expected]


def test_without_a_demand_there_is_no_rate_to_miss_but_drops_count() -> None:
    free = {"street": Demand()}
    dropping = report(fps=0.1, counters=Counters(read=1000, done=400, dropped=600))
    assert codes(facts(dropping, demands=free)) == [("degraded", "dropped", "street")]
    # A camera of 30 Hz asked for 10 drops two of three frames, as it should.
    assert codes(facts(report(counters=Counters(read=900, done=300, dropped=600)))) == []


def test_a_report_from_before_the_switch_says_nothing_of_the_engine() -> None:
    older, newer = report(engine="ffff", age_s=0.8), report(engine="ffff", age_s=0.1)
    assert codes(facts(older, demanded_s=0.5)) == []
    assert codes(facts(newer, demanded_s=0.5)) == [("degraded", "engine", "street")]


def test_an_outbox_may_take_a_moment_to_open() -> None:
    outbox = OutboxReport(store="disk", error="not opened yet")
    young, grown = (AgentReport(rss_bytes=None, uptime_s=s) for s in (0.5, 5.0))
    assert codes(facts(outbox=outbox, agent=young)) == []
    assert codes(facts(outbox=outbox, agent=grown)) == [("degraded", "store", "outbox")]


def test_only_the_last_minute_counts() -> None:
    now = Counters(read=2000, done=1900, refused=100)
    assert codes(facts(report(counters=now), before={"street": Counters(1900, 1800, 0, 100)})) == []
    restarted = {"street": Counters(read=9000, done=9000)}
    assert codes(facts(report(counters=now), before=restarted)) == [
        ("degraded", "refused", "street")
    ]


def test_a_pipeline_that_just_began_is_not_called_slow() -> None:
    assert codes(facts(report(fps=1.0, counters=Counters(read=3, done=3)))) == []


states = st.sampled_from(["starting", "running", "backoff", "ended", "failed"])


@given(
    st.lists(st.tuples(states, st.floats(0, 50), st.floats(0, 100)), max_size=4), st.floats(0, 1e4)
)
def test_the_worst_reason_is_the_state(
    rows: list[tuple[str, float, float]], offline_s: float
) -> None:
    reports = [
        report(pipeline=f"p{number}", state=state, fps=fps, age_s=age_s)
        for number, (state, fps, age_s) in enumerate(rows)
    ]
    verdict = judge(facts(*reports, offline_s=offline_s), LIMITS)
    worst = [STATES.index(reason.state) for reason in verdict.reasons]
    assert worst == sorted(worst, reverse=True)
    assert verdict.state == (verdict.reasons[0].state if verdict.reasons else "ok")


def test_a_window_gives_the_oldest_that_is_not_too_old_and_stays_small() -> None:
    window: Window[int] = Window(60.0, points=6)
    given_back = [window.put(second * SECOND, second) for second in range(200)]
    assert given_back[:61] == [0] * 61
    assert all(second - 60 <= old <= second - 50 for second, old in enumerate(given_back[70:], 70))
    assert len(window._values) <= 8


def test_trends_count_restarts_and_drops_of_the_last_hour() -> None:
    trends = Trends()

    def put(second: int, restarts: int, dropped: int) -> tuple[dict[str, int], int]:
        counters = Counters(restarts=restarts)
        _, found, lost = trends.put(second * SECOND, (report(counters=counters),), dropped)
        return found, lost

    assert put(0, 2, 5) == ({"street": 0}, 0)
    assert put(600, 4, 9) == ({"street": 2}, 4)
    assert put(700, 1, 9) == ({"street": 1}, 4)
    assert put(9000, 1, 9) == ({"street": 0}, 0)


def test_a_reason_is_said_once_for_each_pipeline() -> None:
    twice = [report(pipeline=name, state="failed") for name in ("a", "b")]
    demands = {"a": Demand(), "b": Demand()}
    found = judge(facts(*twice, demands=demands), LIMITS)
    assert [(r.code, r.about) for r in found.reasons] == [("failed", "a"), ("failed", "b")]
    assert msgspec.json.decode(msgspec.json.encode(found.reasons[0]))["text"] == "given up"


@pytest.mark.parametrize(
    ("headroom_c", "expected"),
    [
        (5.0, []),
        (4.9, [("degraded", "temperature", "board")]),
        (0.0, [("degraded", "throttled", "board")]),
        (-1.5, [("degraded", "throttled", "board")]),
        (None, []),
    ],
)
def test_heat_counts_by_how_near_the_board_is_to_slowing_down(
    headroom_c: float | None, expected: list[tuple[str, str, str]]
) -> None:
    board = BoardState(temperatures_c={"cpu-thermal": 94.5, "cv0": 50.0}, headroom_c=headroom_c)

    assert codes(facts(board=board)) == expected
    for reason in judge(facts(board=board), LIMITS).reasons:
        assert "94.5 °C" in reason.text


def test_a_board_that_slows_down_for_its_current_is_degraded() -> None:
    assert codes(facts(board=BoardState(overcurrents=900))) == []
    assert codes(facts(overcurrents=2)) == [("degraded", "overcurrent", "board")]


@pytest.mark.parametrize(
    ("update", "told"),
    [
        (UpdateReport(held="the clock"), "the clock"),
        (UpdateReport(held="the clock", state="PROVE", code="SUCCEEDED"), "the clock"),
        (UpdateReport(held="away", state="FETCH"), "away"),
        (UpdateReport(fault="disk", state="BUILD"), "disk"),
        (UpdateReport(held="its window", state="WAIT"), ""),
        (UpdateReport(), ""),
        (None, ""),
    ],
)
def test_an_update_that_nobody_can_look_at_is_told_after_a_while(
    update: UpdateReport | None, told: str
) -> None:
    why = stuck(update)
    assert why == told
    assert codes(facts(stuck=why, stuck_s=LIMITS.offline_s)) == [], "a boot is no fault"
    found = codes(facts(stuck=why, stuck_s=LIMITS.offline_s + 1))
    assert found == ([("degraded", "update", "update")] if told else [])
