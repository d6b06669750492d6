"""How fast the outbox takes messages to the disk and to a broker, beside the MQTT library alone."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgetrt import wire
from edgetrt.agent.entry import Entry, Moment, Priority
from edgetrt.agent.outbox import Outbox
from edgetrt.agent.spool import Spool
from edgetrt.config import BrokerConfig, OutboxConfig
from edgetrt.mqtt import MqttTransport, Settings
from scripts.benchmarks.figures import Figure, paired_ratio, report

TOPIC = wire.result("bench", "street")
IN_FLIGHT = 64
CONFIG = OutboxConfig(historical_hz=None)


def main() -> int:
    """Measure and print; the exit code says whether every goal is met."""
    parser = argparse.ArgumentParser(prog="scripts/bench outbox", description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=500, help="rows of a commit")
    parser.add_argument(
        "--folder", type=Path, help="on the disk to measure; default: a temporary one"
    )
    parser.add_argument("--json", action="store_true")
    wishes = parser.parse_args()
    payload = sample()
    with tempfile.TemporaryDirectory(dir=wishes.folder) as folder:
        place = Path(folder)
        figures = [*append(place, wishes.messages, wishes.batch, wishes.rounds, payload)]
        figures += drain(place, wishes.messages, wishes.rounds, payload)
    context = {"messages": wishes.messages, "bytes": len(payload), "batch": wishes.batch}
    return report("outbox", figures, context, as_json=wishes.json)


def sample() -> bytes:
    """A result with three objects."""
    box = wire.Box(box=(101.4, 202.1, 140.9, 310.0), score=0.9134, label="person", class_=0)
    frame = wire.FrameResult(
        pipeline="street",
        frame=41,
        mono_ns=90123456789,
        size=(768, 576),
        engine="6f1c0a52",
        latency_ms=14.235,
        objects=(box, box, box),
    )
    stamped = wire.stamp(frame, device="bench", epoch=1, seq=1, time_s=1.8e9, boot="b" * 36)
    return wire.encode(stamped)


def entries(count: int, payload: bytes) -> list[Entry]:
    """Results of one epoch."""
    now = moment()
    return [
        Entry(Priority.RESULT, 1, seq, TOPIC, payload, now.wall, now.mono_ns, now.boot)
        for seq in range(count)
    ]


def moment() -> Moment:
    """Now."""
    return Moment(time.time(), time.monotonic_ns(), "b" * 36)


def append(folder: Path, count: int, batch: int, rounds: int, payload: bytes) -> Iterator[Figure]:
    """Rows a second into a new file, in committed batches."""
    made = entries(count, payload)
    took = []
    for number in range(rounds):
        spool = Spool(folder / f"append-{number}.db", CONFIG)
        watch = Watch()
        for at in range(0, count, batch):
            spool.commit(made[at : at + batch], {}, [], moment())
        took.append(watch.took(count))
        spool.close()
    note = f"rows appended in commits of {batch}"
    rate = statistics.median(one.per_s for one in took)
    yield Figure("append_rows_per_s", rate, "/s", 20_000, "higher", note)
    work = statistics.median(one.cpu_us for one in took)
    yield Figure("append_cpu_us", work, "us", note="processor time a row")


def drain(folder: Path, count: int, rounds: int, payload: bytes) -> Iterator[Figure]:
    """A full outbox to a broker, and as many messages by the library alone, in turn."""
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        yield Figure("drain_per_s", None, "/s", 4000, "higher", "mosquitto is not installed")
        return
    ours: list[Took] = []
    theirs: list[Took] = []
    with broker(program, folder) as port:
        subscribe(port)
        for number in range(rounds + 1):
            path = folder / f"drain-{number}.db"
            ours.append(asyncio.run(by_outbox(port, path, count, payload)))
            theirs.append(by_library(port, count, payload))
    # The first round warms both.
    ours, theirs = ours[1:], theirs[1:]
    note = "QoS 1 from the disk, deleted when acknowledged"
    rates = [round_.per_s for round_ in ours]
    library = [round_.per_s for round_ in theirs]
    yield Figure("drain_per_s", statistics.median(rates), "/s", 4000, "higher", note)
    note = f"paho-mqtt with its thread, {IN_FLIGHT} in flight"
    yield Figure("library_per_s", statistics.median(library), "/s", note=note)
    note = "ours by the library's, median of pairs"
    yield Figure("drain_ratio", paired_ratio(rates, library), "", 0.8, "higher", note)
    work = [round_.cpu_us for round_ in ours]
    library = [round_.cpu_us for round_ in theirs]
    note = "processor time a message, the disk's thread included"
    yield Figure("drain_cpu_us", statistics.median(work), "us", note=note)
    yield Figure("library_cpu_us", statistics.median(library), "us", note="the same of paho-mqtt")
    note = "the library's by ours: the ratio that a busy machine does not blur"
    yield Figure("drain_cpu_ratio", paired_ratio(library, work), "", 0.8, "higher", note)


@dataclass(frozen=True)
class Took:
    """Messages a second, and processor time for each."""

    per_s: float
    cpu_us: float


class Watch:
    """Measures from its making on, by the wall and by the processor."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()

    def took(self, count: int) -> Took:
        """What it took until now."""
        cpu_s = time.process_time() - self._cpu_s
        return Took(count / (time.perf_counter() - self._wall_s), cpu_s / count * 1e6)


async def by_outbox(port: int, path: Path, count: int, payload: bytes) -> Took:
    """From the first connection to the last row deleted."""
    spool = Spool(path, CONFIG)
    spool.commit(entries(count, payload), {}, [], moment())
    spool.close()
    config, settings = BrokerConfig(port=port), Settings(in_flight=IN_FLIGHT, will_delay_s=0)
    async with MqttTransport(config, "bench", settings=settings) as transport:
        async for state in transport.states():
            if state.connected:
                break
        outbox = Outbox(transport, 2, partial(Spool, path, CONFIG), CONFIG, moment, IN_FLIGHT)
        watch = Watch()
        running = asyncio.create_task(outbox.run())
        while outbox.recovered < count:  # noqa: ASYNC110 - a count, read a hundred times a second
            await asyncio.sleep(0.01)
        await outbox.close()
        spent = watch.took(count)
        running.cancel()
        await asyncio.wait([running])
    left = Spool(path, CONFIG)
    if left.depths[Priority.RESULT].rows:
        raise RuntimeError(f"{left.depths[Priority.RESULT].rows} rows were left")
    left.close()
    return spent


def by_library(port: int, count: int, payload: bytes) -> Took:
    """From the first publish to the last acknowledgement, with the same window."""
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_inflight_messages_set(IN_FLIGHT)
    connected, over = threading.Event(), threading.Event()
    left = count

    def published(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            over.set()

    client.on_connect = lambda *_: connected.set()
    client.on_publish = published
    client.connect("127.0.0.1", port)
    client.loop_start()
    connected.wait(10)
    watch = Watch()
    for _ in range(count):
        client.publish(TOPIC, payload, qos=1)
    over.wait(600)
    spent = watch.took(count)
    client.disconnect()
    client.loop_stop()
    if left:
        raise RuntimeError(f"{left} messages were not acknowledged")
    return spent


def subscribe(port: int) -> None:
    """Leave a session that subscribes at QoS 0: somebody listens, and nothing is delivered."""
    client = Client(
        CallbackAPIVersion.VERSION2, client_id="listener", protocol=MQTTProtocolVersion.MQTTv5
    )
    done = threading.Event()

    def connected(*_: object) -> None:
        client.subscribe("edgetrt/#", qos=0)

    client.on_connect = connected
    client.on_subscribe = lambda *_: done.set()
    kept = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    kept.SessionExpiryInterval = 3600
    client.connect("127.0.0.1", port, clean_start=False, properties=kept)
    client.loop_start()
    done.wait(10)
    client.disconnect()
    client.loop_stop()


@contextmanager
def broker(program: str, folder: Path) -> Iterator[int]:
    """A mosquitto of our own on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nlog_dest none\n"
        "set_tcp_nodelay true\nmax_inflight_messages 0\n"
    )
    with subprocess.Popen([program, "-c", str(config)]) as process:
        try:
            for _ in range(500):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.01)
            yield port
        finally:
            process.terminate()


if __name__ == "__main__":
    sys.exit(main())
