"""What a swap costs a running pipeline: the gap between two results, frames lost, memory left behind."""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from edgetrt import app
from edgetrt.clock import SystemClock
from edgetrt.engine import recipe as recipes
from edgetrt.model import onnx_file
from edgetrt.runtime.meter import Meter
from edgetrt.runtime.network import Network
from edgetrt.runtime.pool import PipelinePool
from edgetrt.runtime.reading import Reading
from edgetrt.runtime.running import Job
from edgetrt.runtime.supervisor import Supervisor
from edgetrt.sources import uri as uris
from edgetrt.types import Counters, Result
from scripts.benchmarks.figures import Figure, report

PERSON = Path(__file__).parents[2] / "engines/person/person.onnx"


class Times:
    """A sink that notes when each result came."""

    def __init__(self) -> None:
        self.at_ns: list[int] = []

    def put(self, _: Result) -> bool:
        """Note it."""
        self.at_ns.append(time.monotonic_ns())
        return True

    def close(self) -> None:
        """Nothing is held."""


def main() -> int:
    """Measure and print; the exit code says whether every goal is met."""
    parser = argparse.ArgumentParser(prog="scripts/bench swap", description=__doc__)
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--rate-hz", type=float, default=30.0, help="of the source")
    parser.add_argument("--model", type=Path, default=PERSON)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every-s", type=float, default=0.2, help="pause between two swaps")
    parser.add_argument("--json", action="store_true")
    wishes = parser.parse_args()
    figures = measured(wishes.model, wishes.swaps, wishes.rate_hz, wishes.threads, wishes.every_s)
    context = {"model": wishes.model.name, "swaps": wishes.swaps, "rate_hz": wishes.rate_hz}
    return report("swap", figures, context, as_json=wishes.json)


def measured(model: Path, swaps: int, rate_hz: float, threads: int, every_s: float) -> list[Figure]:
    """Run a live pipeline, first by itself for as long, then with swaps."""
    times, pool, pause = Times(), PipelinePool(), threading.Event()
    jobs = [_job(model, name, threads, rate_hz, times) for name in "ab"]
    pool.begin({"swap": jobs[0]})
    try:
        while len(times.at_ns) < rate_hz and pool.working():
            pause.wait(0.05)
        took_s, memory_mb = list[float](), list[float]()
        alone = _span(pool, times, lambda: pause.wait(swaps * every_s))

        def swap_all() -> None:
            for number in range(1, swaps + 1):
                begun = time.monotonic()
                (one,) = pool.apply(lambda job=jobs[number % 2]: {"swap": job})  # type: ignore[misc]
                took_s.append(time.monotonic() - begun)
                if one.error:
                    raise SystemExit(one.error)
                memory_mb.append(_resident_mb())
                pause.wait(every_s)

        swapped = _span(pool, times, swap_all)
    finally:
        pool.close()
    return _figures(alone, swapped, rate_hz, took_s, _growth(memory_mb))


def _span(
    pool: PipelinePool, times: Times, work: Callable[[], object]
) -> tuple[list[int], Counters, Counters]:
    """When results came during some work, and what was counted before and after it."""
    first, before = len(times.at_ns), _counters(pool)
    work()
    return times.at_ns[first:], before, _counters(pool)


def _figures(
    alone: tuple[list[int], Counters, Counters],
    swapped: tuple[list[int], Counters, Counters],
    rate_hz: float,
    took_s: Sequence[float],
    grown_mb: float,
) -> list[Figure]:
    quiet, busy = (_late(span[0], rate_hz) for span in (alone, swapped))
    lost = [span[2].dropped - span[1].dropped for span in (alone, swapped)]
    return [
        Figure(
            "gap", max(busy), "intervals", 1.0, note="latest result with swaps, beyond its time"
        ),
        Figure("gap_p99", _p99(busy), "intervals", note="with swaps"),
        Figure("gap_alone", max(quiet), "intervals", note="the same without any swap"),
        Figure("gap_alone_p99", _p99(quiet), "intervals", note="without any swap"),
        Figure("lost", lost[1], "frames", 0, note=f"of {len(swapped[0])} with swaps"),
        Figure("lost_alone", lost[0], "frames", note=f"of {len(alone[0])} without"),
        Figure("swap_ms", statistics.median(took_s) * 1e3, "ms", note="load, warm, swap"),
        Figure("grown_mb", grown_mb, "MB", 8.0, note="resident, the last fifth over the second"),
    ]


def _growth(memory_mb: Sequence[float]) -> float:
    """Of medians: now and then two networks are there at once."""
    fifth = max(1, len(memory_mb) // 5)
    return statistics.median(memory_mb[-fifth:]) - statistics.median(memory_mb[fifth:][:fifth])


def _late(at_ns: Sequence[int], rate_hz: float) -> list[float]:
    """How much later than an interval after the one before each result came, in intervals."""
    return [(b - a) * rate_hz / 1e9 - 1.0 for a, b in pairwise(at_ns)]


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]


def _counters(pool: PipelinePool) -> Counters:
    return pool.health()[0].counters


def _resident_mb() -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found[1]) / 1e3 if found else 0.0


def _job(model: Path, name: str, threads: int, rate_hz: float, times: Times) -> Job:
    """The same network under two names: what a swap costs does not depend on what is in it."""
    reading = Reading.of(recipes.read(model))
    digest = onnx_file.digest(model)
    uri = uris.parse(f"synthetic:640x480?rate_hz={rate_hz}")

    def load() -> Network:
        backend = app.pick_backend("onnxruntime", model, digest, threads, reading.shapes)
        session = backend.load(model, threads, reading.shapes)
        return reading.network(session, name, "onnxruntime", depth=2)

    def make_supervisor(opens: Callable[[], Network]) -> Supervisor:
        clock = SystemClock()
        return Supervisor(
            name="swap",
            open_source=lambda: app.open_source(uri),
            open_network=opens,
            sinks=[times],
            meter=Meter("swap", clock),
            clock=clock,
        )

    return Job(name="swap", network=name, parts="", load=load, make_supervisor=make_supervisor)


if __name__ == "__main__":
    sys.exit(main())
