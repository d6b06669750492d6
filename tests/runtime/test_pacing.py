from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetrt.runtime.pacing import Pace
from tests.fakes import FakeClock


def starts(
    rate_hz: float, work_s: list[float], oversleep_s: float = 0.0
) -> tuple[list[float], int]:
    """Seconds at which frames start when each takes `work_s`, and the deadlines missed."""
    clock = FakeClock(oversleep_s)
    pace, begun, missed = Pace(clock), [], 0
    for work in work_s:
        missed += pace.wait(rate_hz)
        begun.append(clock.now_ns / 1e9)
        clock.advance(work)
    return begun, missed


def test_on_time_frames_keep_the_rate_exactly() -> None:
    begun, missed = starts(10.0, [0.03] * 101)
    assert begun[-1] - begun[0] == pytest.approx(10.0)
    assert missed == 0


def test_a_sleep_that_wakes_late_causes_no_drift() -> None:
    begun, missed = starts(10.0, [0.03] * 101, oversleep_s=0.004)
    assert begun[-1] - begun[0] == pytest.approx(10.0, abs=0.01)
    assert missed == 0


def test_an_engine_slower_than_the_rate_runs_at_its_own_speed() -> None:
    """120 ms asked for 10 Hz gives 8.3 Hz; waiting for the grid would give 5."""
    begun, missed = starts(10.0, [0.12] * 51)
    assert 50 / (begun[-1] - begun[0]) == pytest.approx(8.33, abs=0.01)
    assert missed == 50


def test_a_stall_is_counted_and_is_not_made_up_for() -> None:
    begun, missed = starts(10.0, [0.01, 1.0, 0.01, 0.01])
    assert missed == 9
    assert begun[3] - begun[2] == pytest.approx(0.1)


def test_no_rate_never_waits_and_a_new_rate_starts_at_once() -> None:
    clock = FakeClock()
    pace = Pace(clock)
    assert pace.wait(None) == 0
    pace.wait(1.0)
    before = clock.now_ns
    pace.wait(100.0)
    assert (clock.now_ns - before) / 1e9 <= 0.01
    assert pace.due_s(None) == 0.0


@given(
    rate_hz=st.floats(0.5, 240),
    work=st.lists(st.floats(0.0, 0.5), min_size=2, max_size=60),
    oversleep=st.floats(0.0, 0.01),
)
def test_never_faster_than_the_rate(rate_hz: float, work: list[float], oversleep: float) -> None:
    begun, _ = starts(rate_hz, work, oversleep)
    allowed = 1 + (begun[-1] - begun[0]) * rate_hz * 1.001
    assert len(begun) <= allowed + 0.11  # a start may lean on the slack of the one before it


@pytest.mark.parametrize("rate_hz", [5e-324, 1e-9, 1e9, float("inf")])
def test_no_rate_is_too_odd(rate_hz: float) -> None:
    clock = FakeClock()
    pace = Pace(clock)
    assert pace.wait(rate_hz) == 0
    assert pace.due_s(rate_hz) > 0
