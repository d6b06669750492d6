"""The pool by itself: what it does when a pipeline stands still, and what it leaves to the pipelines."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from edgetrt.runtime.aside import aside, may_come_back
from edgetrt.runtime.network import Network
from edgetrt.runtime.pool import PipelinePool
from edgetrt.runtime.running import Job
from edgetrt.runtime.supervisor import Supervisor
from edgetrt.types import Frame, Grant
from edgetrt.wire import Taken
from tests.fakes import FakeSource
from tests.runtime.scenes import frame, network
from tests.runtime.test_service import job, wait_for


class StuckSource(FakeSource):
    """A camera whose driver does not come back until a test lets it."""

    def __init__(self) -> None:
        super().__init__(frame(n) for n in range(10**9))
        self.stuck, self.free = threading.Event(), threading.Event()
        self.free.set()

    def read(self, timeout_s: float) -> Frame | None:
        if not self.free.is_set():
            self.stuck.set()
            assert self.free.wait(30)
        return super().read(timeout_s)


@contextmanager
def at_work(pool: PipelinePool, *jobs: Job) -> Iterator[None]:
    pool.begin({one.name: one for one in jobs})
    try:
        for one in jobs:
            wait_for(lambda one=one: results(pool, one.name) > 0)  # type: ignore[misc]
        yield
    finally:
        assert pool.close()


def results(pool: PipelinePool, name: str) -> int:
    supervisor = pool.get(name)
    return 0 if supervisor is None else supervisor.meter.counters.done


def look(pool: PipelinePool, *jobs: Job, shadow: int = 0) -> list[Taken]:
    return pool.apply(lambda: {one.name: one for one in jobs}, shadow=shadow)


def test_one_that_was_told_to_end_and_was_too_slow_is_begun_anew() -> None:
    camera, pool = StuckSource(), PipelinePool(stop_s=0.05)
    cameras = iter([camera, StuckSource()])
    wanted = job("a", lambda: next(cameras))
    with at_work(pool, wanted):
        camera.free.clear()
        assert camera.stuck.wait(20)
        (one,) = look(pool)
        assert (one.did, one.error) == ("kept", "pipeline 'a': it did not end within 0.05 s")
        (one,) = look(pool, wanted)
        assert "did not end" in one.error, "it still holds its camera"

        camera.free.set()
        old = pool.get("a")
        assert old is not None
        wait_for(lambda: old.meter.state == "ended")
        (one,) = look(pool, wanted)
        assert (one.did, one.error) == ("restarted", "")
        wait_for(lambda: pool.get("a") is not old and results(pool, "a") > 0)


def test_shadow_runs_of_cameras_that_stand_still_end_together_in_time() -> None:
    cameras = {name: StuckSource() for name in "abc"}
    pool = PipelinePool(shadow_s=0.3)
    jobs = [job(name, lambda camera=camera: camera) for name, camera in cameras.items()]  # type: ignore[misc]
    with at_work(pool, *jobs):
        for camera in cameras.values():
            camera.free.clear()
            assert camera.stuck.wait(20)
            threading.Timer(1.0, camera.free.set).start()
        found = look(pool, *(replace(one, network="second") for one in jobs), shadow=100)
    assert [(one.did, one.error) for one in found] == [("swapped", "")] * 3
    assert all(one.compared < 100 for one in found)


def test_networks_are_loaded_with_what_the_pipelines_leave_over() -> None:
    usual, seen = os.getpriority(os.PRIO_PROCESS, 0), []
    ended = threading.Event()
    stays: list[threading.Thread] = []

    def load() -> Network:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        stays.append(threading.Thread(target=ended.wait, args=(30,)))
        stays[0].start()
        return network(fingerprint="second")

    pool = PipelinePool()
    with at_work(pool, job("a")):
        (one,) = look(pool, replace(job("a", engine="second"), load=load))
        now = os.getpriority(os.PRIO_PROCESS, stays[0].native_id or 0)
    ended.set()
    stays[0].join(20)
    assert one.did == "swapped"
    assert seen == [min(19, usual + 10) if may_come_back() else usual]
    assert now == usual, "what loading leaves behind serves the pipelines"


def test_what_is_done_aside_is_done_at_low_priority_and_its_errors_arrive() -> None:
    usual = os.getpriority(os.PRIO_PROCESS, 0)

    def own() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert (aside(own), own()) == (min(19, usual + 10), usual)
    try:
        aside(lambda: 1 // 0)
    except ZeroDivisionError:
        return
    raise AssertionError("the error is gone")


def test_a_fault_of_ours_keeps_the_others_running() -> None:
    def faulty(_: object) -> Supervisor:
        raise ZeroDivisionError("a bug in an adapter")

    pool = PipelinePool()
    bad = replace(job("bad"), make_supervisor=faulty)
    pool.begin({"bad": bad, "a": job("a")})
    try:
        wait_for(lambda: results(pool, "a") > 0)
        supervisor = pool.get("bad")
        assert supervisor is not None
        wait_for(lambda: "ZeroDivisionError: a bug in an adapter" in supervisor.meter.error)
    finally:
        pool.close()


def test_a_limit_outlives_the_pipeline_that_it_was_given_to() -> None:
    pool = PipelinePool()
    with at_work(pool, job("a")):
        old = pool.get("a")
        assert old is not None
        old.limit(Grant(50.0))
        (one,) = look(pool, replace(job("a"), parts="another camera"))
        assert one.did == "restarted"
        fresh = pool.get("a")
        assert fresh is not None
        assert fresh is not old
        assert fresh.granted == Grant(50.0)
