"""What is counted goes on over an engine's change; what is timed begins anew."""

from __future__ import annotations

from edgetrt.runtime.meter import Meter
from tests.fakes import FakeClock


def test_times_of_the_engine_before_do_not_stand_for_the_next() -> None:
    clock = FakeClock()
    meter = Meter("street", clock)
    for _ in range(100):
        clock.sleep(0.1)
        meter.done(90_000_000, {"infer": 80_000_000}, 3, 0)
    meter.renew()
    assert meter.health().latency is None
    assert meter.health().stages == {}
    for _ in range(10):
        clock.sleep(0.1)
        meter.done(9_000_000, {"infer": 8_000_000}, 3, 0)

    health = meter.health()
    assert health.latency is not None
    assert (health.latency.p99_ms, health.stages["infer"].mean_ms) == (9.0, 8.0)
    assert (health.counters.done, health.fps) == (110, 10.0)
