"""A real mosquitto on a free loopback port, and an observer that shares no code with the product."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Broker:
    """mosquitto with its files in `folder`; starts and stops as often as asked, on the same port."""

    def __init__(self, folder: Path, *lines: str, anonymous: bool = True) -> None:
        self.folder = folder
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            "\n".join(
                [
                    f"listener {self.port} 127.0.0.1",
                    f"allow_anonymous {str(anonymous).lower()}",
                    "user root",
                    "set_tcp_nodelay true",
                    *lines,
                ]
            )
            + "\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return when it accepts connections."""
        assert MOSQUITTO is not None
        log = (self.folder / "mosquitto.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [MOSQUITTO, "-c", str(self._config)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.01)
        raise RuntimeError((self.folder / "mosquitto.log").read_text())

    def stop(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None


class Observer:
    """Collects what the broker delivers on a filter, with paho's own thread and nothing of ours."""

    def __init__(self, port: int, topics: str = "edgetrt/v1/#", **login: str) -> None:
        self.messages: list[MQTTMessage] = []
        self._came = threading.Condition()
        self._ready = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        if login:
            self.client.username_pw_set(login["username"], login["password"])
        self.client.on_message = self._on_message
        self.client.on_connect = lambda client, *_: client.subscribe(topics, qos=1)
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_disconnect = lambda *_: self._ready.clear()
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port, keepalive=20)
        self.client.loop_start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Return when it is connected and subscribed."""
        assert self._ready.wait(20)

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        with self._came:
            self.messages.append(message)
            self._came.notify_all()

    def on(self, topic: str) -> list[bytes]:
        """Bodies that arrived on one topic so far."""
        return [bytes(m.payload) for m in list(self.messages) if m.topic == topic]

    def wait_for(self, topic: str, count: int = 1, timeout_s: float = 30.0) -> list[bytes]:
        """Bodies on a topic once there are `count`; fails when they do not come."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.on(topic)) >= count, timeout_s), (
                f"{len(self.on(topic))} of {count} on {topic}"
            )
        return self.on(topic)

    def close(self) -> None:
        """Disconnect and end the thread."""
        self.client.disconnect()
        self.client.loop_stop()


@contextlib.contextmanager
def observing(port: int, topics: str = "edgetrt/v1/#", **login: str) -> Iterator[Observer]:
    """An `Observer`, closed at the end."""
    observer = Observer(port, topics, **login)
    try:
        yield observer
    finally:
        observer.close()


@contextlib.contextmanager
def running(folder: Path, *lines: str, anonymous: bool = True) -> Iterator[Broker]:
    """A started `Broker`, stopped at the end."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    broker = Broker(folder, *lines, anonymous=anonymous)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


class Proxy:
    """A TCP relay in front of a broker, whose wire can be cut; lives in the test's event loop."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._pairs: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.port = free_port()

    async def start(self) -> None:
        """Let connections through."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)

    async def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._pairs:
            writer.transport.abort()
        self._pairs.clear()
        await asyncio.sleep(0)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._pairs += [writer, far_writer]
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


class ScriptedBroker:
    """Speaks just enough MQTT 5 to misbehave on purpose.

    Args:
        connack: the whole CONNACK packet, or nothing at all.
        hold: acknowledges so many messages late, all at once.
        suback: what it answers to each filter of a SUBSCRIBE.

    Attributes:
        most: the most messages that were unacknowledged at a time.
        qos: of every PUBLISH that came.
    """

    def __init__(self, connack: bytes, hold: int = 1, suback: int = 1) -> None:
        self.port = free_port()
        self.suback = suback
        self.most = 0
        self.qos: list[int] = []
        self.connack = connack
        self._hold = hold
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> ScriptedBroker:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.drop()
        await asyncio.sleep(0)

    def drop(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        open_ids: list[bytes] = []
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                kind, body = await _packet(reader)
                if kind >> 4 == 1:
                    writer.write(self.connack)
                elif kind >> 4 == 8:
                    writer.write(_suback(body, self.suback))
                elif kind >> 4 == 3:
                    self.qos.append(kind >> 1 & 3)
                    at = 2 + int.from_bytes(body[:2], "big")
                    open_ids.append(body[at : at + 2])
                    self.most = max(self.most, len(open_ids))
                    # Late, so that a client that does not wait would be seen.
                    await asyncio.sleep(0.005)
                    if len(open_ids) >= self._hold:
                        writer.write(b"".join(b"\x40\x02" + mid for mid in open_ids))
                        open_ids.clear()
        writer.close()


def _suback(subscribe: bytes, code: int) -> bytes:
    """The answer to a SUBSCRIBE without properties."""
    at, filters = 3, 0
    while at < len(subscribe):
        at += 3 + int.from_bytes(subscribe[at : at + 2], "big")
        filters += 1
    return bytes([0x90, 3 + filters]) + subscribe[:2] + b"\0" + bytes([code]) * filters


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    kind = (await reader.readexactly(1))[0]
    length = shift = 0
    while True:
        digit = (await reader.readexactly(1))[0]
        length |= (digit & 127) << shift
        shift += 7
        if digit < 128:
            return kind, await reader.readexactly(length)
