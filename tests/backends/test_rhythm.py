"""Waiting for frames: how long to sleep, and when to leave it to the driver."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgetrt.backends.rhythm import LEAD_NS, Rhythm

MS = 1_000_000


def test_nothing_is_known_at_first_so_it_asks_at_once() -> None:
    assert Rhythm().sleep_ns(0) == 0


def test_it_sleeps_until_shortly_before_the_usual_end() -> None:
    rhythm = Rhythm()
    rhythm.learn(5 * MS)
    assert rhythm.sleep_ns(0) == 5 * MS - LEAD_NS
    assert rhythm.sleep_ns(3 * MS) == 2 * MS - LEAD_NS
    assert rhythm.sleep_ns(6 * MS) == 0


def test_short_frames_are_asked_after_at_once() -> None:
    rhythm = Rhythm()
    rhythm.learn(LEAD_NS + 1000)
    assert rhythm.sleep_ns(0) == 0


@settings(deadline=None)
@given(
    first=st.integers(1000, 2_000_000_000),
    then=st.integers(100_000, 50_000_000),
    late=st.integers(50_000, 60_000),
)
def test_it_finds_the_usual_time_again_after_any_first_frame(
    first: int, then: int, late: int
) -> None:
    rhythm = Rhythm()
    rhythm.learn(first)
    for _ in range(120):
        nap = rhythm.sleep_ns(0)
        if nap and nap + late > then:
            rhythm.overslept()
        else:
            rhythm.learn(then)
    assert abs(rhythm.sleep_ns(0) - max(0, then - LEAD_NS)) <= 40_000


def asleep(rhythm: Rhythm) -> int:
    """How many frames it leaves to the driver before it looks out again."""
    return next(n for n in range(10_000) if rhythm.look_out())


def test_it_gives_way_for_longer_the_more_often_others_have_work_to_do() -> None:
    rhythm = Rhythm()
    assert asleep(rhythm) == 0
    lengths = []
    for _ in range(6):
        rhythm.give_way()
        lengths.append(asleep(rhythm))
    assert lengths == [8, 32, 128, 512, 2048, 2048]
    for _ in range(9):
        rhythm.learn(1 * MS)
    rhythm.give_way()
    assert asleep(rhythm) == 8
