"""The outbox against the broker of a site, over a network that does everything wrong."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import msgspec
import pytest

from edgetrt.agent.outbox import Outbox
from edgetrt.config import BrokerConfig, KeepConfig
from edgetrt.mqtt import Backoff, Settings
from tests.agent.waiting import NOW, ROOMY
from tests.broker import ScriptedBroker
from tests.chaos import (
    EPOCH,
    SETTINGS,
    CountingTransport,
    Network,
    drive,
    faults,
    ledger,
    message,
    table,
    waiting,
)
from tests.site import site

pytestmark = pytest.mark.broker

ENDLESS_QUEUE = ("max_queued_messages 0", "max_queued_bytes 0")
"""A receiver that is slower than this machine's outbox must not be the one that loses."""


def test_what_is_acknowledged_arrives_whatever_the_network_does(tmp_path: Path) -> None:
    count = 5000
    with site(tmp_path, *ENDLESS_QUEUE) as broker, ledger(broker) as got:
        chance = random.Random(4)
        network = Network(broker.port, chance)
        plan = faults(
            broker,
            network,
            ["reset", "latency", "flip", "refuse", "restart", "silent", "throttle"],
        )
        sent = asyncio.run(drive(broker, network, tmp_path, count, plan, got))
        assert got.settle(sent) == []
        told = table(sent, got, plan)
        assert sum(sent.acknowledged) == count == got.distinct, told
        assert got.disorder == [], told
        assert got.waited > 0, told


@pytest.mark.slow
def test_a_wire_that_is_open_and_dead_is_noticed(tmp_path: Path) -> None:
    with site(tmp_path, *ENDLESS_QUEUE) as broker, ledger(broker) as got:
        network = Network(broker.port, random.Random(5))
        plan = faults(broker, network, ["half_open"])
        sent = asyncio.run(drive(broker, network, tmp_path, 1000, plan, got))
        assert got.settle(sent) == []
        told = table(sent, got, plan)
        assert sum(sent.acknowledged) == 1000 == got.distinct, told
        assert got.disorder == [], told


def test_a_broker_that_takes_one_message_at_a_time(tmp_path: Path) -> None:
    with site(tmp_path, *ENDLESS_QUEUE, "max_inflight_messages 1") as broker, ledger(broker) as got:
        network = Network(broker.port, random.Random(6))
        sent = asyncio.run(drive(broker, network, tmp_path, 500, [], got))
        assert got.settle(sent) == []
        assert got.received == 500 == got.distinct, table(sent, got, [])
        assert got.disorder == []


def test_beyond_the_cap_the_oldest_go_and_are_counted(tmp_path: Path) -> None:
    config = msgspec.structs.replace(ROOMY, result=KeepConfig(max_mb=0.1, max_age_s=1e9))
    with site(tmp_path, *ENDLESS_QUEUE) as broker, ledger(broker) as got:
        network = Network(broker.port, random.Random(7))

        async def away() -> None:
            await network.down()

        async def back() -> None:
            # Until the disk has what was put: its limits are looked at with each commit.
            await asyncio.sleep(0.5)
            await network.up()

        plan = [("away", away), ("back", back)]
        sent = asyncio.run(drive(broker, network, tmp_path, 3000, plan, got, config))
        dropped = sum(sent.outbox.dropped.values())
        assert got.settle(sent) == []
        told = table(sent, got, plan)
        assert dropped > 300, told
        assert sum(sent.acknowledged) == 3000 - dropped, told
        # What was on its way when the line broke may have arrived, and then been dropped.
        assert 0 <= got.distinct - sum(sent.acknowledged) <= SETTINGS.in_flight, told
        missing = [seq for seq in range(3000) if not got.times(seq)]
        # Results only, the least important class, and never the newest.
        assert {seq % 5 for seq in missing} == {0, 1, 2}, told
        assert missing[-1] < 3000 - 100, told
        assert got.disorder == [], told


def test_nothing_is_lost_to_a_broker_that_refuses_then_is_silent_then_slow() -> None:
    async def scenario() -> None:
        refuses, takes = b"\x20\x03\x00\x87\x00", b"\x20\x06\x00\x00\x03\x21\x00\x01"
        async with ScriptedBroker(refuses) as broker:
            transport = CountingTransport(
                BrokerConfig(port=broker.port),
                "cam-1",
                settings=Settings(connack_timeout_s=0.2, will_delay_s=0),
                backoff=Backoff(0.02, 0.05),
            )
            acknowledged = transport.expect(100)
            async with transport:
                outbox = Outbox(transport, EPOCH, None, ROOMY, lambda: NOW)
                work = asyncio.create_task(outbox.run())
                for seq in range(100):
                    outbox.put(message(seq))
                for connack, said in ((refuses, "Not authorized"), (b"", "said nothing")):
                    broker.connack = connack
                    async for state in transport.states():
                        if said in state.reason:
                            break
                assert (waiting(outbox), sum(acknowledged), broker.qos) == (100, 0, [])
                broker.connack = takes
                while waiting(outbox):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                work.cancel()
                await asyncio.wait([work])
                await outbox.close()
            assert (sum(acknowledged), broker.most, broker.qos) == (100, 1, [1] * 100)

    asyncio.run(asyncio.wait_for(scenario(), 60))
