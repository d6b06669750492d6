from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetrt.engine.bench import bench, fill, summarize
from edgetrt.types import TensorSpec
from tests.fakes import FakeBackend, FakeClock


def test_throughput_and_latency_of_a_steady_engine() -> None:
    figures = summarize([2_000_000] * 50, walltime_s=0.1)
    assert figures.throughput_qps == 500.0
    assert figures.latency_ms.median == figures.latency_ms.p99 == 2.0
    assert figures.warnings == ()


def test_an_unsteady_one_is_doubted_as_trtexec_does() -> None:
    times = [1_000_000] * 50 + [3_000_000] * 50
    (warning,) = summarize(times, 0.2).warnings
    assert "clocks are not locked" in warning
    assert "only 3 runs" in summarize([10**6] * 3, 0.003).warnings[-1]


@given(st.lists(st.integers(1, 10**10), min_size=1, max_size=60))
def test_percentiles_are_in_order(times: list[int]) -> None:
    told = summarize(times, sum(times) / 1e9).latency_ms
    assert told.min <= told.median <= told.p90 <= told.p95 <= told.p99 <= told.max
    assert told.min <= told.mean <= told.max


def test_it_runs_for_the_time_it_was_given_and_at_least_once() -> None:
    clock = FakeClock()

    def infer(buffers: object) -> dict[str, np.ndarray]:
        clock.sleep(0.01)
        return {"y": np.zeros((1, 4), np.float32)}

    session = FakeBackend(compute=infer).load(Path("fake"))
    assert bench(session, 0.5, clock).runs == 50
    assert bench(session, 0.0, clock).runs == 1
    assert bench(session, 100.0, clock, most=7).runs == 7


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int64"])
def test_inputs_are_filled_with_noise(dtype: str) -> None:
    session = FakeBackend(inputs=(TensorSpec("x", (1, 4), dtype),)).load(Path("fake"))
    fill(session)
    assert session.buffers["x"].dtype == dtype
    assert session.buffers["x"].any()
