"""The agent over a real link and a broker in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgetrt import wire
from edgetrt.agent.agent import Agent
from edgetrt.agent.identity import Identity
from edgetrt.config import DeviceConfig, HealthConfig, OutboxConfig, PublishConfig
from edgetrt.link import Receiver, Sender
from edgetrt.types import Counters
from tests.fakes import FakeTransport

IDENTITY = Identity("cam-1", 77, "0.1.0", "boot")
RESULTS = "edgetrt/v1/u/cam-1/result/street"
HEALTH = "edgetrt/v1/u/cam-1/health"
STATUS = "edgetrt/v1/u/cam-1/status"
REPORTED = "edgetrt/v1/u/cam-1/reported"
EVENT = "edgetrt/v1/u/cam-1/event"
NOW_S = 1_795_000_000.0
RARELY = PublishConfig(health_s=3600.0)


def frame(number: int, unsent: int = 0, pipeline: str = "street", mono_ns: int = 0) -> bytes:
    return wire.encode(
        wire.FrameResult(
            pipeline=pipeline,
            frame=number,
            mono_ns=mono_ns,
            size=(8, 6),
            engine="e",
            latency_ms=1.0,
            objects=(),
            unsent=unsent,
        )
    )


def report(state: str) -> bytes:
    return wire.encode(
        wire.PipelineReport(
            pipeline="street",
            state=state,
            backend="fake",
            engine="e",
            fps=1.0,
            latency=None,
            stages={},
            counters=Counters(),
        )
    )


@dataclass
class Rig:
    agent: Agent
    transport: FakeTransport
    sender: Sender
    clock: list[int]

    def bodies(self, topic: str) -> list[bytes]:
        return [body for on, body, _ in self.transport.published if on == topic]

    def results(self) -> list[wire.ResultMessage]:
        return [wire.decode(wire.ResultMessage, body) for body in self.bodies(RESULTS)]

    def healths(self) -> list[wire.HealthMessage]:
        return [wire.decode(wire.HealthMessage, body) for body in self.bodies(HEALTH)]

    def statuses(self) -> list[tuple[bool, str]]:
        read = [wire.decode(wire.StatusMessage, body) for body in self.bodies(STATUS)]
        return [(status.online, status.reason) for status in read]

    async def until(self, met: Callable[[], bool]) -> None:
        for _ in range(5000):
            self.sender.flush()
            if met():
                return
            await asyncio.sleep(0.002)
        raise AssertionError("did not come about")


def drive(
    folder: Path,
    scenario: Callable[[Rig], Awaitable[None]],
    config: PublishConfig = RARELY,
    transport: FakeTransport | None = None,
    memory_mb: float = 4.0,
) -> Rig:
    """Run an agent through a scenario, stop it, and return what it left."""
    broker = transport or FakeTransport()
    clock = [1_000_000_000]

    async def run(receiver: Receiver, sender: Sender) -> Rig:
        agent = Agent(
            IDENTITY,
            DeviceConfig(
                publish=config,
                outbox=OutboxConfig(memory_mb=memory_mb),
                health=HealthConfig(agent_mb=1e6, memory_free=0.0, disk_free=0.0),
            ),
            broker,
            receiver,
            run_folder=folder,
            monotonic_ns=lambda: clock[0],
            wall=lambda: NOW_S,
        )
        rig = Rig(agent, broker, sender, clock)
        stop = asyncio.Event()
        running = asyncio.create_task(agent.run(stop))
        try:
            await asyncio.wait_for(scenario(rig), 60)
        finally:
            stop.set()
            await asyncio.wait_for(running, 60)
        return rig

    path = folder / "agent.sock"
    with Receiver(path) as receiver, Sender(path) as sender:
        return asyncio.run(run(receiver, sender))


def test_results_are_stamped_and_published_in_order(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: bool(rig.statuses()))
        for number in range(200):
            assert rig.sender.send(frame(number, mono_ns=400_000_000))
        await rig.until(lambda: len(rig.results()) == 200)

    rig = drive(tmp_path, scenario)
    results = rig.results()
    assert [result.frame for result in results] == list(range(200))
    seqs = [result.seq for result in results]
    assert seqs == sorted(set(seqs))
    # Captured 0.6 s before now by the monotonic clock.
    assert {(r.device, r.epoch, r.boot, r.time) for r in results} == {
        ("cam-1", 77, "boot", NOW_S - 0.6)
    }


def test_birth_first_then_health_and_at_the_end_goodbye(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: bool(rig.healths()) and bool(rig.bodies(REPORTED)))

    rig = drive(tmp_path, scenario)
    told = [topic for topic, _, _ in rig.transport.published if topic != REPORTED]
    assert told == [STATUS, HEALTH, HEALTH, STATUS]
    assert len(rig.bodies(REPORTED)) == 1
    assert rig.statuses() == [(True, "connected"), (False, "stopped")]
    retained = {topic for topic, _, retain in rig.transport.published if retain}
    assert retained == {STATUS, REPORTED}


def test_a_change_of_state_is_told_at_once_and_the_same_state_is_not(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: len(rig.healths()) == 1)
        rig.sender.send(report("running"))
        await rig.until(lambda: len(rig.healths()) == 2)
        for _ in range(5):
            rig.sender.send(report("running"))
        rig.sender.send(report("failed"))
        await rig.until(lambda: len(rig.healths()) == 3)

    rig = drive(tmp_path, scenario)
    told = [[p.state for p in health.pipelines] for health in rig.healths()]
    assert told == [[], ["running"], ["failed"], ["failed"]]


def test_health_comes_on_its_period(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: len(rig.healths()) >= 3)

    drive(tmp_path, scenario, PublishConfig(health_s=0.05))


def test_a_rate_is_kept_per_pipeline_and_the_rest_counted(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: bool(rig.statuses()))
        for number in range(30):
            rig.clock[0] += 100_000_000
            rig.sender.send(frame(number))
            rig.sender.send(frame(number, pipeline="yard"))
            await rig.until(lambda n=number: rig.agent.stats.received == 2 * (n + 1))  # type: ignore[misc]

    rig = drive(tmp_path, scenario, PublishConfig(health_s=3600.0, result_hz=2.0))
    last = rig.healths()[-1].agent
    assert len(rig.results()) == 6
    assert (last.received, last.published, last.limited, last.unsent) == (60, 12, 48, 0)


def test_offline_results_wait_and_come_marked_after_what_is_new(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: bool(rig.statuses()))
        rig.transport.go_offline()
        for number in range(50):
            assert rig.sender.send(frame(number))
        await rig.until(lambda: rig.agent.stats.received == 50)
        assert (rig.agent.stats.pending, rig.agent.stats.unsent) == (50, 0)
        rig.transport.go_online()
        rig.sender.send(frame(50))
        await rig.until(lambda: len(rig.results()) == 51)

    rig = drive(tmp_path, scenario)
    last = rig.healths()[-1].agent
    assert (last.received, last.published, last.unsent, last.pending) == (51, 51, 0, 0)
    assert last.reconnects == 1
    assert rig.statuses()[:2] == [(True, "connected")] * 2
    waited = [result.frame for result in rig.results() if result.historical]
    assert waited == list(range(50))


def test_what_waits_in_memory_is_bounded_and_the_oldest_goes_first(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: len(rig.healths()) == 1)
        rig.transport.go_offline()
        for number in range(100):
            assert rig.sender.send(frame(number))
        await rig.until(lambda: rig.agent.stats.received == 100)
        dropped = rig.agent.stats.unsent
        assert 50 < dropped < 100
        assert rig.agent.stats.pending == 100 - dropped
        rig.transport.go_online()
        await rig.until(lambda: rig.agent.stats.pending == 0)

    rig = drive(tmp_path, scenario, memory_mb=0.01)
    kept = [result.frame for result in rig.results()]
    assert kept == list(range(100 - len(kept), 100))
    last = rig.healths()[-1]
    assert last.agent.published == len(kept)
    assert last.agent.unsent == last.outbox.dropped["result"] == 100 - len(kept)
    assert (last.state, [reason.code for reason in last.reasons]) == ("degraded", ["lost"])


def test_losing_the_connection_with_messages_in_flight_loses_nothing(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: len(rig.healths()) == 1)
        rig.transport.hold = True
        for number in range(100):
            assert rig.sender.send(frame(number))
        await rig.until(lambda: rig.agent.stats.received == 100)
        rig.transport.go_offline()
        rig.transport.hold = False
        rig.transport.go_online()
        await rig.until(lambda: rig.agent.stats.pending == 0)

    rig = drive(tmp_path, scenario)
    last = rig.healths()[-1].agent
    assert (last.published, last.unsent) == (100, 0)
    assert [result.frame for result in rig.results()] == list(range(100))


def test_a_topic_that_the_broker_refuses_is_counted_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: bool(rig.statuses()))
        for number in range(20):
            rig.sender.send(frame(number))
        await rig.until(lambda: rig.agent.stats.unsent == 20)

    drive(tmp_path, scenario, transport=FakeTransport(refuse=(RESULTS,)))
    assert len([r for r in caplog.records if "refused" in r.getMessage()]) == 1


def test_what_is_no_message_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    bad = [
        b"",
        b"{}",
        b"\xff" * 100,
        b'{"v":2,"kind":"frame"}',
        frame(1, pipeline="not/a/topic"),
        wire.encode(wire.GrantMessage(pipeline="street")),
        report("running").replace(b"street", b"+"),
    ]

    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: len(rig.healths()) == 1)
        for datagram in bad:
            assert rig.sender.send(datagram)
        rig.sender.send(frame(0))
        await rig.until(lambda: len(rig.results()) == 1)

    last = drive(tmp_path, scenario).healths()[-1]
    assert (last.agent.malformed, last.agent.received) == (len(bad), 1)
    assert last.pipelines == ()


def test_losses_on_the_link_are_told(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: bool(rig.statuses()))
        for unsent in (0, 4, 9):
            rig.sender.send(frame(unsent, unsent=unsent))
        await rig.until(lambda: len(rig.results()) == 3)

    assert drive(tmp_path, scenario).healths()[-1].agent.link_dropped == 9


def test_stopping_sends_what_is_pending_first(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: len(rig.healths()) == 1)
        rig.transport.hold = True
        for number in range(20):
            rig.sender.send(frame(number))
        await rig.until(lambda: rig.agent.stats.pending == 20)
        asyncio.get_running_loop().call_later(0.05, rig.transport.release)

    rig = drive(tmp_path, scenario)
    assert len(rig.results()) == 20
    assert rig.healths()[-1].agent.pending == 0
    assert rig.statuses()[-1] == (False, "stopped")


def test_stopping_without_a_connection_ends(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await asyncio.sleep(0)

    rig = drive(tmp_path, scenario, transport=FakeTransport(online=False))
    assert rig.transport.published == []
