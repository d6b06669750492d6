"""Waits between attempts to connect."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgetrt.mqtt import Backoff


def longest() -> float:
    return 1.0


def test_the_bound_doubles_up_to_the_cap() -> None:
    backoff = Backoff(1.0, 10.0, 60.0, longest)
    assert [backoff.delay_s() for _ in range(6)] == [1, 2, 4, 8, 10, 10]


def test_only_a_stable_connection_starts_anew() -> None:
    backoff = Backoff(1.0, 120.0, 60.0, longest)
    assert [backoff.delay_s() for _ in range(3)] == [1, 2, 4]
    backoff.held(59.9)
    assert backoff.delay_s() == 8
    backoff.held(60.0)
    assert backoff.delay_s() == 1


@settings(deadline=None)
@given(st.integers(0, 2000))
def test_every_wait_is_within_the_cap(attempts: int) -> None:
    backoff = Backoff(1.0, 120.0)
    waits = [backoff.delay_s() for _ in range(attempts)]
    assert all(0 <= wait <= 120 for wait in waits)
