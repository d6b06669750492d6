from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from edgetrt import wire
from edgetrt.asking import Answer, look_again
from edgetrt.clock import SystemClock
from edgetrt.errors import EdgetrtError, EngineMismatchError, SinkError, SourceLostError
from edgetrt.link import Receiver, Sender
from edgetrt.runtime.meter import Meter
from edgetrt.runtime.network import Network
from edgetrt.runtime.pool import PipelinePool
from edgetrt.runtime.running import Job
from edgetrt.runtime.service import Service
from edgetrt.runtime.supervisor import Supervisor
from edgetrt.types import Grant, PipelineHealth
from tests.fakes import FakeBackend, FakeSink, FakeSource
from tests.runtime.scenes import backend, frame, frames, network


def endless() -> FakeSource:
    return FakeSource(frame(n) for n in range(10**9))


def job(
    name: str,
    source: Callable[[], FakeSource] = endless,
    engine: str = "first",
    made_by: FakeBackend | None = None,
    sink: FakeSink | None = None,
    parts: str = "",
    rate_hz: float | None = None,
) -> Job:
    """A pipeline; `source` and `sink` are what its parts are made of."""

    def make_supervisor(opens: Callable[[], Network]) -> Supervisor:
        clock = SystemClock()
        return Supervisor(
            name=name,
            open_source=source,
            open_network=opens,
            sinks=[sink or FakeSink()],
            meter=Meter(name, clock),
            clock=clock,
            rate_hz=rate_hz,
        )

    return Job(
        name=name,
        network=engine,
        parts=parts,
        load=lambda: network(made_by, fingerprint=engine),
        make_supervisor=make_supervisor,
        rate_hz=rate_hz,
    )


def unloadable(name: str) -> Job:
    def load() -> Network:
        raise EngineMismatchError("the engine is gone")

    return replace(job(name, engine="bad"), load=load)


@dataclass
class Device:
    """A runtime in a thread, with what it should run in `jobs`."""

    folder: Path
    jobs: dict[str, Job]
    health: dict[str, PipelineHealth] = field(default_factory=dict)
    rates_hz: Mapping[str, float] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.inbox = Receiver(self.folder / "runtime.sock")
        self.service = Service(
            PipelinePool(), lambda: self.jobs, lambda _: True, self.inbox, SystemClock(), self.note
        )
        self.thread = threading.Thread(target=self.service.run, args=(self.stop,))

    def note(self, pipelines: Sequence[PipelineHealth], rates_hz: Mapping[str, float]) -> None:
        self.health = {one.pipeline: one for one in pipelines}
        self.rates_hz = rates_hz

    def look(self, *jobs: Job, only: str = "") -> Answer:
        self.jobs = {one.name: one for one in jobs}
        return look_again(self.folder / "runtime.sock", only, 20.0)

    def say(self, message: bytes) -> None:
        with Sender(self.folder / "runtime.sock") as agent:
            agent.send(message)


@contextmanager
def running(folder: Path, *jobs: Job) -> Iterator[Device]:
    device = Device(folder, {one.name: one for one in jobs})
    device.thread.start()
    try:
        for one in jobs:
            wait_for(partial(began, device, one.name))
        yield device
    finally:
        device.stop.set()
        device.thread.join(timeout=20)
        device.inbox.close()
    assert not device.thread.is_alive()


def began(device: Device, name: str) -> bool:
    return done(device, name) > 0


def done(device: Device, name: str) -> int:
    supervisor = device.service.pool.get(name)
    return 0 if supervisor is None else supervisor.meter.counters.done


def state(device: Device, name: str) -> str:
    return device.health[name].state if name in device.health else ""


def wait_for(true: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if true():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come about")


def did(answer: Answer) -> dict[str, tuple[str, str]]:
    return {one.pipeline: (one.did, one.engine) for one in answer.pipelines}


def test_health_of_every_pipeline_is_told_to_the_end(tmp_path: Path) -> None:
    sent: list[bytes] = []

    def keep(datagram: bytes) -> bool:
        sent.append(datagram)
        return True

    jobs = {name: job(name, lambda: FakeSource(frames(*range(3)))) for name in ("a", "b")}
    with Receiver(tmp_path / "runtime.sock") as inbox:
        service = Service(
            PipelinePool(),
            lambda: jobs,
            keep,
            inbox,
            SystemClock(),
        )
        assert service.run(threading.Event())
    last = {}
    for datagram in sent:
        report = wire.decode_link(datagram)
        assert isinstance(report, wire.PipelineReport)
        last[report.pipeline] = report
    assert {name: (r.state, r.counters.done) for name, r in last.items()} == {
        "a": ("ended", 3),
        "b": ("ended", 3),
    }


def test_grants_arrive_and_rubbish_is_counted(tmp_path: Path) -> None:
    with running(tmp_path, job("a")) as device:
        device.say(b"\xffnonsense")
        device.say(wire.encode(wire.grant_message("nobody", Grant(1.0))))
        device.say(wire.encode(wire.ActivateMessage(reply="../agent.sock")))
        device.say(wire.encode(wire.grant_message("a", Grant(50.0))))
        wait_for(lambda: device.rates_hz == {"a": 50.0})
    assert device.service.malformed == 3


def test_another_file_can_take_messages_of_its_own(tmp_path: Path) -> None:
    taken: list[str] = []
    with Receiver(tmp_path / "runtime.sock") as inbox, Sender(tmp_path / "runtime.sock") as agent:
        jobs = {"a": job("a")}
        service = Service(PipelinePool(), lambda: jobs, lambda _: True, inbox, SystemClock())
        stop = threading.Event()

        def take(message: wire.GrantMessage) -> None:
            taken.append(message.pipeline)
            stop.set()

        service.handle(wire.GrantMessage, take)
        thread = threading.Thread(target=service.run, args=(stop,))
        thread.start()
        agent.send(wire.encode(wire.grant_message("mine", Grant(1.0))))
        thread.join(timeout=20)
    assert taken == ["mine"]


def test_progress_is_told_with_every_report(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    jobs = {name: job(name, lambda: FakeSource(frames(*range(3)))) for name in ("a", "b")}
    with Receiver(tmp_path / "runtime.sock") as inbox:
        service = Service(
            PipelinePool(),
            lambda: jobs,
            lambda _: True,
            inbox,
            SystemClock(),
            progress=lambda health, _: seen.extend((h.pipeline, h.counters.done) for h in health),
        )
        assert service.run(threading.Event())
    assert seen[:2] == [("a", seen[0][1]), ("b", seen[1][1])]
    assert seen[-2:] == [("a", 3), ("b", 3)]


def test_a_look_swaps_starts_stops_and_keeps(tmp_path: Path) -> None:
    old, new, gone = backend(), backend(), backend()
    sink = FakeSink()
    before = job("swaps", made_by=old, sink=sink)
    with running(tmp_path, before, job("kept"), job("gone", made_by=gone)) as device:
        answer = device.look(
            job("swaps", engine="second", made_by=new), job("kept"), job("new", rate_hz=50.0)
        )
        assert (answer.state, did(answer)) == (
            "taken",
            {
                "swaps": ("swapped", "second"),
                "kept": ("kept", "first"),
                "gone": ("stopped", ""),
                "new": ("started", "first"),
            },
        )
        wait_for(lambda: done(device, "new") > 0 and set(device.health) == {"swaps", "kept", "new"})
        wait_for(lambda: device.rates_hz == {"new": 50.0})
        assert (old.open, gone.open, new.open) == (0, 0, 1)
    numbers = [result.frame.seq for result in sink.results]
    engines = [result.engine for result in sink.results]
    assert numbers == list(range(len(numbers)))
    assert engines == sorted(engines)
    assert set(engines) == {"first", "second"}
    assert new.open == 0


def test_what_does_not_load_changes_nothing_and_is_told(tmp_path: Path) -> None:
    sink = FakeSink()
    with running(tmp_path, job("a", sink=sink), job("b")) as device:
        answer = device.look(unloadable("a"), job("b", engine="second"), unloadable("c"))
        assert answer.state == "refused"
        assert "a: the engine is gone" in answer.detail
        assert did(answer) == {
            "a": ("kept", "first"),
            "b": ("swapped", "second"),
            "c": ("kept", ""),
        }
        served = len(sink.results)
        wait_for(lambda: len(sink.results) > served)
        assert device.look(job("a"), job("b")).state == "taken"
    assert {result.engine for result in sink.results} == {"first"}


def test_what_loads_and_does_not_run_changes_nothing(tmp_path: Path) -> None:
    broken = backend()
    broken.fail_next = 1
    with running(tmp_path, job("a")) as device:
        answer = device.look(job("a", engine="second", made_by=broken))
        assert (answer.state, did(answer)) == ("refused", {"a": ("kept", "first")})
    assert broken.open == 0


def test_other_parts_mean_a_restart_and_one_that_fails_brings_the_old_back(tmp_path: Path) -> None:
    first, second = FakeSink(), FakeSink()

    def no_sink(opens: Callable[[], Network]) -> Supervisor:
        raise SinkError("the disk is full")

    with running(tmp_path, job("a", sink=first)) as device:
        answer = device.look(job("a", sink=second, parts="other", engine="second"))
        assert did(answer)["a"][0] == "restarted"
        wait_for(lambda: bool(second.results))
        assert first.closed == 1
        bad = replace(job("a", parts="third"), make_supervisor=no_sink)
        assert "disk is full" in device.look(bad).detail
        wait_for(lambda: done(device, "a") > 0)
        wait_for(lambda: "a" in device.health and device.health["a"].engine == "second")


def test_a_rate_that_changed_is_granted_without_a_restart(tmp_path: Path) -> None:
    sink = FakeSink()
    with running(tmp_path, job("a", sink=sink)) as device:
        answer = device.look(job("a", rate_hz=100.0))
        assert did(answer) == {"a": ("kept", "first")}
        wait_for(lambda: device.rates_hz == {"a": 100.0})
    assert sink.closed == 1


def test_one_alone_can_be_looked_at(tmp_path: Path) -> None:
    with running(tmp_path, job("a"), job("b")) as device:
        answer = device.look(job("a", engine="second"), job("b", engine="second"), only="a")
        assert did(answer) == {"a": ("swapped", "second")}
        refused = device.look(job("a", engine="second"), only="c")
        assert "no pipeline 'c'" in refused.detail


def test_what_cannot_be_told_changes_nothing(tmp_path: Path) -> None:
    with running(tmp_path, job("a")) as device:

        def damaged() -> dict[str, Job]:
            raise EdgetrtError("the release is damaged")

        device.service._jobs = damaged
        answer = look_again(tmp_path / "runtime.sock", "", 20.0)
        assert (answer.state, answer.detail) == ("refused", "the release is damaged")
        served = done(device, "a")
        wait_for(lambda: done(device, "a") > served)


def test_a_runtime_told_to_run_nothing_waits_for_more(tmp_path: Path) -> None:
    with running(tmp_path, job("a")) as device:
        assert did(device.look()) == {"a": ("stopped", "")}
        assert device.thread.is_alive()
        assert did(device.look(job("b"))) == {"b": ("started", "first")}
        wait_for(lambda: done(device, "b") > 0)


def test_one_that_is_over_is_begun_again_when_its_job_is_another(tmp_path: Path) -> None:
    lives = iter([FakeSource(frames(0, 1)), endless()])
    with running(tmp_path, job("a", lambda: next(lives)), job("b")) as device:
        wait_for(lambda: state(device, "a") == "ended")
        assert did(device.look(job("a"), job("b"))) == {
            "a": ("kept", "first"),
            "b": ("kept", "first"),
        }
        answer = device.look(job("a", lambda: next(lives), engine="second"), job("b"))
        assert did(answer)["a"][0] == "restarted"
        wait_for(lambda: done(device, "a") > 2)


def test_who_asks_while_networks_are_loaded_hears_which_they_are(tmp_path: Path) -> None:
    loading, loaded = threading.Event(), threading.Event()

    def slowly() -> Network:
        loading.set()
        assert loaded.wait(20)
        return network()

    device = Device(tmp_path, {"a": replace(job("a"), load=slowly)})
    device.thread.start()
    try:
        assert loading.wait(20)
        threading.Timer(0.1, loaded.set).start()
        assert did(device.look(*device.jobs.values())) == {"a": ("kept", "first")}
    finally:
        device.stop.set()
        device.thread.join(timeout=20)
        device.inbox.close()


def test_a_pipeline_that_cannot_load_what_it_began_with_is_told(tmp_path: Path) -> None:
    again = Device(tmp_path, {"a": unloadable("a"), "b": job("b")})
    again.thread.start()
    try:
        wait_for(lambda: done(again, "b") > 0)
        answer = again.look(*again.jobs.values())
    finally:
        again.stop.set()
        again.thread.join(timeout=20)
        again.inbox.close()
    assert (answer.state, did(answer)) == (
        "refused",
        {"a": ("kept", ""), "b": ("kept", "first")},
    )
    assert "the engine is gone" in answer.detail


def test_a_pipeline_whose_camera_is_away_takes_the_network_all_the_same(tmp_path: Path) -> None:
    away = ["once", "twice"]

    def camera() -> FakeSource:
        if away:
            raise SourceLostError(f"no camera {away.pop()}")
        return endless()

    device = Device(tmp_path, {"a": job("a", camera)})
    device.thread.start()
    try:
        assert did(device.look(job("a", camera, engine="second"))) == {"a": ("swapped", "second")}
        wait_for(lambda: done(device, "a") > 0)
        assert device.service.pool.health()[0].engine == "second"
    finally:
        device.stop.set()
        device.thread.join(timeout=20)
        device.inbox.close()
