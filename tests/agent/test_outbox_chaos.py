"""Messages through a real broker whose wire is cut again and again."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from paho.mqtt.client import MQTTMessage

from edgetrt.agent.entry import Priority
from edgetrt.agent.outbox import Outbox
from edgetrt.agent.spool import Spool
from edgetrt.config import BrokerConfig
from edgetrt.mqtt import Backoff, MqttTransport, Settings
from tests.agent.waiting import NOW, ROOMY, entry
from tests.broker import Observer, Proxy, observing, running

pytestmark = pytest.mark.broker

CLASSES = (Priority.RESULT, Priority.RESULT, Priority.RESULT, Priority.HEALTH, Priority.EVENT)


async def drive(port: int, folder: Path, count: int, cuts: int, batch: int = 50) -> Outbox:
    """Put `count` messages while the wire is cut `cuts` times; returns when all are acknowledged."""
    proxy = Proxy(port)
    await proxy.start()
    transport = MqttTransport(
        BrokerConfig(port=proxy.port),
        "cam-1",
        settings=Settings(will_delay_s=0),
        backoff=Backoff(0.02, 0.05),
    )
    async with transport:
        outbox = Outbox(
            transport, 1, partial(Spool, folder / "outbox.db", ROOMY), ROOMY, lambda: NOW
        )
        work = asyncio.create_task(outbox.run())
        for seq in range(count):
            payload = f'{{"seq":{seq},"historical":false}}'.encode()
            outbox.put(entry(seq, CLASSES[seq % len(CLASSES)], 1, payload))
            if seq % batch == 0:
                await asyncio.sleep(0.001)
            if seq % (count // cuts) == count // cuts - 1:
                await proxy.cut()
                await asyncio.sleep(0.02)
                await proxy.start()
        while any(outbox.keeper.depth(of).rows for of in Priority):
            assert not work.done()
            await asyncio.sleep(0.02)
        work.cancel()
        await asyncio.wait([work])
        await outbox.close()
    await proxy.cut()
    return outbox


def judge(messages: list[MQTTMessage], count: int) -> Counter[int]:
    """Fails unless all arrived, each stream of each class in order; returns how often each did."""
    times: Counter[int] = Counter()
    last: dict[tuple[str, bool], int] = {}
    for message in messages:
        body = json.loads(message.payload)
        stream = message.topic, body["historical"]
        # A reconnect starts the stream of what waited over; it may only repeat.
        if times[body["seq"]] == 0 and not body["historical"]:
            assert body["seq"] > last.get(stream, -1)
        last[stream] = body["seq"]
        times[body["seq"]] += 1
    assert set(times) == set(range(count))
    return times


@pytest.mark.parametrize(
    ("count", "cuts"),
    [
        (20_000, 8),
        pytest.param(1_000_000, 50, marks=[pytest.mark.system, pytest.mark.timeout(3600)]),
    ],
)
def test_all_arrives_in_order_over_a_wire_that_is_cut(
    tmp_path: Path, count: int, cuts: int
) -> None:
    with (
        running(tmp_path, "max_queued_messages 0", "max_inflight_messages 0") as broker,
        observing(broker.port, "#") as observer,
    ):
        outbox = asyncio.run(drive(broker.port, tmp_path, count, cuts))
        settled = -1
        while settled != (settled := len(observer.messages)) or settled < count:
            time.sleep(0.5)
        times = judge(observer.messages, count)
    results = sum(of is Priority.RESULT for of in CLASSES) * count // len(CLASSES)
    assert (outbox.published, outbox.unsent, outbox.pending) == (results, 0, 0)
    waited = sum(json.loads(m.payload)["historical"] for m in observer.messages)
    repeated = sum(times.values()) - count
    print(f"sent {count} received {sum(times.values())} repeated {repeated} waited {waited} lost 0")
    assert waited > 0


def test_what_nobody_subscribes_to_waits_until_someone_does(tmp_path: Path) -> None:
    async def scenario(port: int) -> None:
        transport = MqttTransport(
            BrokerConfig(port=port), "cam-1", settings=Settings(will_delay_s=0)
        )
        async with transport:
            outbox = Outbox(transport, 1, None, ROOMY, lambda: NOW)
            work = asyncio.create_task(outbox.run())
            async for state in transport.states():
                if state.connected:
                    break
            for seq in range(100):
                outbox.put(entry(seq, payload=f'{{"seq":{seq},"historical":false}}'.encode()))
            for _ in range(2000):
                if outbox.unheard:
                    break
                await asyncio.sleep(0.005)
            assert (outbox.pending, outbox.published) == (100, 0)
            observer = await asyncio.to_thread(Observer, port, "#")
            outbox.put(entry(100, payload=b'{"seq":100,"historical":false}'))
            for _ in range(2000):
                if outbox.pending == 0:
                    break
                await asyncio.sleep(0.005)
            assert (outbox.pending, outbox.published, outbox.unheard) == (0, 101, False)
            await asyncio.to_thread(observer.wait_for, "result", 101)
            await asyncio.to_thread(observer.close)
            assert judge(observer.messages, 101) == Counter(range(101))
            work.cancel()
            await asyncio.wait([work])

    with running(tmp_path) as broker:
        asyncio.run(scenario(broker.port))
