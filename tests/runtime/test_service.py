from __future__ import annotations

import threading
from pathlib import Path

from edgetrt import wire
from edgetrt.clock import SystemClock
from edgetrt.link import Receiver, Sender
from edgetrt.runtime.meter import Meter
from edgetrt.runtime.service import Service
from edgetrt.runtime.supervisor import Supervisor
from edgetrt.types import Frame, Grant
from tests.fakes import FakeSink, FakeSource
from tests.runtime.scenes import frames, network


def supervisor(name: str, source: FakeSource) -> Supervisor:
    clock = SystemClock()
    return Supervisor(
        name=name,
        open_source=lambda: source,
        open_network=network,
        sinks=[FakeSink()],
        meter=Meter(name, clock),
        clock=clock,
        grant=Grant(),
    )


def test_health_of_every_pipeline_is_told_to_the_end(tmp_path: Path) -> None:
    sent: list[bytes] = []
    pipelines = {name: supervisor(name, FakeSource(frames(*range(3)))) for name in ("a", "b")}
    with Receiver(tmp_path / "runtime.sock") as inbox:
        service = Service(
            pipelines, lambda d: sent.append(d) is None, inbox, lambda _: network(), SystemClock()
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
    stop, granted = threading.Event(), threading.Event()

    class Endless(FakeSource):
        def read(self, timeout_s: float) -> Frame | None:
            pipeline = watched.pipeline
            if pipeline is not None and pipeline.grant.rate_hz == 50.0:
                granted.set()
            return super().read(timeout_s)

    watched = supervisor("a", Endless(f for n in range(10**9) for f in frames(n)))
    with Receiver(tmp_path / "runtime.sock") as inbox, Sender(tmp_path / "runtime.sock") as agent:
        service = Service({"a": watched}, lambda _: True, inbox, lambda _: network(), SystemClock())
        thread = threading.Thread(target=service.run, args=(stop,))
        thread.start()
        agent.send(b"\xffnonsense")
        agent.send(wire.encode(wire.grant_message("nobody", Grant(1.0))))
        agent.send(wire.encode(wire.grant_message("a", Grant(50.0))))
        assert granted.wait(10)
        stop.set()
        thread.join(timeout=10)
    assert not thread.is_alive()
    assert service.malformed == 2


def test_progress_is_told_with_every_report(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    pipelines = {name: supervisor(name, FakeSource(frames(*range(3)))) for name in ("a", "b")}
    with Receiver(tmp_path / "runtime.sock") as inbox:
        service = Service(
            pipelines,
            lambda _: True,
            inbox,
            lambda _: network(),
            SystemClock(),
            progress=lambda health: seen.extend((h.pipeline, h.counters.done) for h in health),
        )
        assert service.run(threading.Event())
    assert seen[:2] == [("a", seen[0][1]), ("b", seen[1][1])]
    assert seen[-2:] == [("a", 3), ("b", 3)]
