"""How long to wait before what failed is tried again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgetrt.backoff import full_jitter_s


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_the_pause_is_within_a_bound_that_doubles_to_its_limit(attempt: int, draw: float) -> None:
    bound = min(30.0, 0.5 * 2 ** min(attempt, 10))
    assert full_jitter_s(attempt, 0.5, 30.0, draw) == draw * bound
