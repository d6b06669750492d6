"""Rates of results."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgetrt.agent.limiter import Allowance, RateLimiter

SECOND = 1_000_000_000


def passed(limiter: RateLimiter, times: list[int]) -> int:
    return sum(limiter.allow(time) for time in times)


def test_without_a_rate_everything_passes() -> None:
    assert passed(RateLimiter(None), [0, 0, 5, 3, 2**62]) == 5


def test_a_rate_that_does_not_divide_the_frames_is_kept_on_average() -> None:
    frames = [number * SECOND // 30 for number in range(30 * 10)]
    assert 99 <= passed(RateLimiter(10.0), frames) <= 101
    assert 69 <= passed(RateLimiter(7.0), frames) <= 71


def test_slower_frames_all_pass() -> None:
    frames = [number * SECOND for number in range(20)]
    assert passed(RateLimiter(2.0), frames) == 20


def test_a_clock_that_jumps_blocks_nothing() -> None:
    limiter = RateLimiter(1.0)
    assert limiter.allow(100 * SECOND)
    assert limiter.allow(5 * SECOND)
    assert not limiter.allow(5 * SECOND + 1)
    assert limiter.allow(6 * SECOND)


@given(
    st.floats(0.1, 200.0),
    st.lists(st.integers(0, SECOND), min_size=1, max_size=200).map(sorted),
)
def test_never_more_than_the_rate_and_two(rate_hz: float, times: list[int]) -> None:
    span_s = (times[-1] - times[0]) / SECOND
    assert passed(RateLimiter(rate_hz), times) <= rate_hz * span_s + 2


@given(st.floats(0.5, 100.0), st.integers(1, 5))
def test_never_less_than_the_rate_when_there_is_enough(rate_hz: float, seconds: int) -> None:
    times = [number * SECOND // 1000 for number in range(seconds * 1000)]
    # Frames come on their own grid of 1 ms, so a pass may be that late.
    assert passed(RateLimiter(rate_hz), times) >= int(rate_hz * seconds * 0.9)


@given(
    st.integers(1, 20),
    st.floats(0.01, 100.0),
    st.lists(st.integers(0, 20_000_000_000), min_size=1, max_size=200),
)
def test_an_allowance_lets_its_burst_through_and_then_its_rate(
    burst: int, every_s: float, gaps_ns: list[int]
) -> None:
    allowance, now, passed = Allowance(burst, every_s), 10**12, []
    for gap in gaps_ns:
        now += gap
        if allowance.take(now):
            passed.append(now)
    period = round(every_s * 1e9)
    for first, start in enumerate(passed):
        for count, at in enumerate(passed[first:], 1):
            assert count <= burst + (at - start) // period + 1
    assert len(passed) >= min(burst, len(gaps_ns))
    assert allowance.take(now + burst * period)
