"""A bad network in front of a broker, and a ledger of what came through it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgetrt.agent.entry import Entry, Priority
from edgetrt.agent.outbox import Outbox
from edgetrt.agent.spool import Spool
from edgetrt.config import OutboxConfig
from edgetrt.errors import TransportError
from edgetrt.mqtt import Backoff, MqttTransport, Settings
from tests.agent.waiting import NOW, ROOMY
from tests.broker import free_port
from tests.site import CONTROLLER, Site

DEVICE, EPOCH = "cam-1", 7
UP = f"edgetrt/v1/u/{DEVICE}"
TOPICS = {
    Priority.EVENT: f"{UP}/event",
    Priority.HEALTH: f"{UP}/health",
    Priority.RESULT: f"{UP}/result/street",
}
CLASSES = (Priority.RESULT, Priority.RESULT, Priority.RESULT, Priority.HEALTH, Priority.EVENT)
SETTINGS = Settings(connect_timeout_s=1.0, connack_timeout_s=1.0, will_delay_s=0)
_AHEAD = 20_000
"""Messages that may wait on the device or at the broker while more are put.

Below every cap; and a mosquitto 2.0 that starts with more than 65,535 for one subscriber sends them all at
once and runs out of packet numbers.
"""


class Wire:
    """One connection through the network, both ways."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near, self.far = near, far
        self.dead = False

    def abort(self) -> None:
        """Reset it at both ends."""
        self.near.transport.abort()
        self.far.transport.abort()


class Network:
    """A TCP relay that can be slow, lossy, silent, cut, and wrong; lives in the test's loop.

    Attributes:
        delay_s: of every chunk.
        bytes_per_s: throttle; 0 = none.
        silent: takes new connections and never passes on a byte.
        flips: chunks that get a wrong byte, from now on.
    """

    def __init__(self, target: int, chance: random.Random) -> None:
        self.port = free_port()
        self.delay_s = 0.0
        self.bytes_per_s = 0.0
        self.silent = False
        self.flips = 0
        self._target = target
        self._chance = chance
        self._wires: list[Wire] = []
        self._relays: set[asyncio.Task[object] | None] = set()
        self._server: asyncio.Server | None = None

    async def up(self) -> None:
        """Let connections through."""
        if self._server is None:
            self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)

    async def down(self) -> None:
        """Reset every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset()
        if self._relays:
            await asyncio.wait(self._relays)

    def reset(self) -> None:
        """Reset every connection."""
        for wire in self._wires:
            wire.abort()
        self._wires.clear()

    def half_open(self) -> None:
        """Every connection stays open at its ends, and nothing passes any more."""
        for wire in self._wires:
            wire.dead = True

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._relays.add(task)
        try:
            await self._between(reader, writer)
        finally:
            self._relays.discard(task)

    async def _between(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        wire = Wire(writer, far)
        wire.dead = self.silent
        self._wires.append(wire)
        await asyncio.gather(self._pump(wire, reader, far), self._pump(wire, far_reader, writer))

    async def _pump(
        self, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(16384):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.bytes_per_s:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
                if wire.dead:
                    continue
                if self.flips:
                    self.flips -= 1
                    data = self._wrong(data)
                writer.write(data)
                await writer.drain()
        if not wire.dead:
            writer.close()

    def _wrong(self, data: bytes) -> bytes:
        changed = bytearray(data)
        changed[self._chance.randrange(len(changed))] ^= 1 << self._chance.randrange(8)
        return bytes(changed)


class Ledger:
    """What the controller received: how often, and in which order. Shares no code with the product.

    Its session outlives its connections, so that nothing which the broker took passes it by.
    """

    def __init__(self, site: Site) -> None:
        self.received = 0
        self.waited = 0
        self.distinct = 0
        self.disorder: list[str] = []
        self._times: dict[tuple[str, int], bytearray] = {}
        self._last: dict[tuple[str, bool], int] = {}
        self._ready = threading.Event()
        kept = Properties(PacketTypes.CONNECT)
        kept.SessionExpiryInterval = 3600
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.tls_set_context(site.context(CONTROLLER))
        self._client.on_message = self._note
        self._client.on_connect = lambda client, *_: client.subscribe("edgetrt/v1/u/#", qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.reconnect_delay_set(1, 1)
        self._client.connect(
            "127.0.0.1", site.port, keepalive=20, clean_start=False, properties=kept
        )
        self._client.loop_start()
        assert self._ready.wait(30)

    def times(self, seq: int) -> int:
        """How often a message of the epoch arrived."""
        counted = self._times.get((DEVICE, EPOCH), b"")
        return counted[seq] if seq < len(counted) else 0

    def _note(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        body = json.loads(message.payload)
        seq, historical = body["seq"], body["historical"]
        counted = self._times.setdefault((body["device"], body["epoch"]), bytearray())
        if seq >= len(counted):
            counted.extend(bytes(seq + 4096 - len(counted)))
        self.received += 1
        self.waited += historical
        if counted[seq] == 0:
            self.distinct += 1
            stream = message.topic, historical
            # What arrives for the first time is in order; what is told again may be from before.
            if seq <= self._last.get(stream, -1) and len(self.disorder) < 20:
                self.disorder.append(f"{stream}: {seq} after {self._last[stream]}")
            self._last[stream] = seq
        counted[seq] = min(255, counted[seq] + 1)

    def has(self, count: int) -> bool:
        """Whether so many different messages arrived."""
        return self.distinct >= count

    def missing(self, sent: Sent) -> list[int]:
        """What was acknowledged and has not arrived."""
        counted = self._times.get((DEVICE, EPOCH), bytearray()).ljust(sent.count, b"\0")
        return [
            seq
            for seq, (said, came) in enumerate(zip(sent.acknowledged, counted, strict=False))
            if said > came
        ]

    def settle(self, sent: Sent, quiet_s: float = 20.0) -> list[int]:
        """Wait until all that was acknowledged has arrived, or nothing comes; returns `missing`."""
        wanted, before, since = sum(sent.acknowledged), -1, time.monotonic()
        while time.monotonic() - since < quiet_s:
            if self.distinct >= wanted and not self.missing(sent):
                return []
            if self.received != before:
                before, since = self.received, time.monotonic()
            time.sleep(0.1)
        return self.missing(sent)

    def close(self) -> None:
        """Disconnect and end the thread."""
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.contextmanager
def ledger(of: Site) -> Iterator[Ledger]:
    """A `Ledger`, closed at the end."""
    made = Ledger(of)
    try:
        yield made
    finally:
        made.close()


class CountingTransport(MqttTransport):
    """Notes which messages the broker acknowledged, in `acknowledged`, by their number."""

    def expect(self, count: int) -> bytearray:
        """Make room for so many."""
        self.acknowledged = bytearray(count)
        return self.acknowledged

    def post(
        self,
        topic: str,
        payload: bytes,
        done: Callable[[TransportError | None], None],
        *,
        retain: bool = False,
        expiry_s: int | None = None,
    ) -> None:
        def told(error: TransportError | None) -> None:
            if error is None:
                self.acknowledged[int(payload.split(b":", 3)[3].split(b",", 1)[0])] = 1
            done(error)

        super().post(topic, payload, told, retain=retain, expiry_s=expiry_s)


def message(seq: int) -> Entry:
    """A message as long as a result with an object."""
    priority, text = CLASSES[seq % len(CLASSES)], "x" * 120
    payload = (
        f'{{"device":"{DEVICE}","epoch":{EPOCH},"seq":{seq},"text":"{text}","historical":false}}'
    )
    topic = TOPICS[priority]
    return Entry(priority, EPOCH, seq, topic, payload.encode(), NOW.wall, NOW.mono_ns, NOW.boot)


Fault = tuple[str, Callable[[], Awaitable[None]]]


def faults(site: Site, network: Network, names: Sequence[str]) -> list[Fault]:
    """What happens, by name."""

    async def for_a_while(seconds: float, **wanted: float) -> None:
        before = {name: getattr(network, name) for name in wanted}
        for name, value in wanted.items():
            setattr(network, name, value)
        await asyncio.sleep(seconds)
        for name, value in before.items():
            setattr(network, name, value)

    async def latency() -> None:
        await for_a_while(0.5, delay_s=0.02)

    async def throttle() -> None:
        await for_a_while(0.5, bytes_per_s=100_000.0)

    async def reset() -> None:
        network.reset()

    async def flip() -> None:
        network.flips = 2

    async def half_open() -> None:
        network.half_open()

    async def refuse() -> None:
        await network.down()
        await asyncio.sleep(0.3)
        await network.up()

    async def silent() -> None:
        network.silent = True
        network.reset()
        await asyncio.sleep(0.5)
        network.silent = False

    async def restart() -> None:
        await asyncio.to_thread(site.stop)
        await asyncio.sleep(0.1)
        await asyncio.to_thread(site.start)

    happens = (latency, throttle, reset, flip, half_open, refuse, silent, restart)
    known = {step.__name__: step for step in happens}
    return [(name, known[name]) for name in names]


@dataclass
class Sent:
    """What the device's side counted."""

    count: int
    acknowledged: bytearray
    outbox: Outbox
    seconds: float = 0.0


async def drive(
    site: Site,
    network: Network,
    folder: Path,
    count: int,
    plan: Sequence[Fault],
    got: Ledger,
    config: OutboxConfig = ROOMY,
) -> Sent:
    """Put `count` messages while the faults happen, evenly spread; returns when nothing waits."""
    await network.up()
    transport = CountingTransport(
        site.client(DEVICE, network.port), DEVICE, settings=SETTINGS, backoff=Backoff(0.02, 0.2)
    )
    acknowledged = transport.expect(count)
    begin = time.monotonic()
    async with transport:
        store = partial(Spool, folder / "outbox.db", config)
        outbox = Outbox(transport, EPOCH, store, config, lambda: NOW)
        work = asyncio.create_task(outbox.run())
        every, upcoming = max(1, count // (len(plan) + 1)), list(plan)
        for seq in range(count):
            outbox.put(message(seq))
            if seq % 50 == 0:
                await asyncio.sleep(0.001)
            if seq % 1000 == 0:
                await _until(partial(got.has, seq - _AHEAD), work)
            if upcoming and seq % every == every - 1:
                await upcoming.pop(0)[1]()
        await _until(lambda: not waiting(outbox), work)
        work.cancel()
        await asyncio.wait([work])
        await outbox.close()
    await network.down()
    return Sent(count, acknowledged, outbox, time.monotonic() - begin)


def waiting(outbox: Outbox) -> int:
    """Messages that wait."""
    return sum(outbox.keeper.depth(of).rows for of in Priority)


async def _until(met: Callable[[], bool], work: asyncio.Task[None]) -> None:
    while not met():
        assert not work.done(), work
        await asyncio.sleep(0.02)


def table(sent: Sent, got: Ledger, plan: Sequence[Fault]) -> str:
    """The figures, for people."""
    happened = Counter(name for name, _ in plan)
    rows = {
        "sent": sent.count,
        "acknowledged": sum(sent.acknowledged),
        "received": got.received,
        "duplicates": got.received - got.distinct,
        "lost": len(got.missing(sent)),
        "dropped at a limit": sum(sent.outbox.dropped.values()),
        "waited, told as historical": got.waited,
        "out of order": len(got.disorder),
        "faults": ", ".join(f"{count} {name}" for name, count in sorted(happened.items())) or "0",
        "seconds": round(sent.seconds, 1),
    }
    return "\n".join(f"{name:28} {value}" for name, value in rows.items())
