"""A download through the broker beside the same one over HTTP: both in turn, on this machine."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgetrt import wire
from edgetrt.agent.chunks import Chunks
from edgetrt.agent.inbound import Inbound
from edgetrt.config import BrokerConfig
from edgetrt.demo.broker import Broker
from edgetrt.errors import TransportError, UnreachableError
from edgetrt.mqtt import MqttTransport
from edgetrt.update.chunks import ChunkOrigin
from edgetrt.update.line import Line
from edgetrt.update.origin import Limits, Origin
from scripts.benchmarks.figures import Figure, paired_ratio

DEVICE = "bench"
_REACH_S = 30.0


def broker_figures(
    folder: Path, tree: Path, once: Callable[[Origin], float], over_http: Origin, runs: int
) -> Iterator[Figure]:
    """How many times as long as over HTTP.

    Args:
        folder: for files of the broker.
        tree: what is served; its folder `targets` has the file.
        once: fetches it from an origin and says how many seconds that took.
        over_http: the same file from a web server.
        runs: of each.
    """
    try:
        with _through_broker(folder, tree) as origin:
            once(origin)
            ours, theirs = [], []
            for _ in range(runs):
                ours.append(once(origin))
                theirs.append(once(over_http))
    except TransportError as error:
        yield Figure("mqtt_ratio", None, "", note=error.message)
        return
    note = f"through the broker {statistics.median(ours):.3f} s, over HTTP"
    note += f" {statistics.median(theirs):.3f} s; same fetcher, both servers on this machine"
    yield Figure("mqtt_ratio", paired_ratio(ours, theirs), "", note=note)


@contextmanager
def _through_broker(folder: Path, tree: Path) -> Iterator[Origin]:
    """Broker, server and a device's connection, each in a process or a thread of its own."""
    line = Line()
    origin = ChunkOrigin(line, "targets", Limits(answer_s=1.0))
    with Broker(folder) as broker, _serving(broker.port, tree), _connected(broker.port, line):
        _wait_until_served(origin)
        yield origin


@contextmanager
def _serving(port: int, tree: Path) -> Iterator[None]:
    options = ["--broker", f"127.0.0.1:{port}", "--device-mbit", "0"]
    command = [sys.executable, "-m", "edgetrt", "release", "serve", str(tree), *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


@contextmanager
def _connected(port: int, line: Line) -> Iterator[None]:
    """The connection of an agent, in an event loop of its own."""
    loop = asyncio.new_event_loop()
    stop, ready = asyncio.Event(), threading.Event()

    async def live() -> None:
        config = BrokerConfig(port=port, spread_s=0.0)
        subscriptions = wire.everything_to(DEVICE, chunks=True)
        async with MqttTransport(config, DEVICE, subscriptions=subscriptions) as transport:
            await transport.reach(_REACH_S)
            inbound = Inbound(DEVICE, transport, {"chunk": Chunks(DEVICE, transport, line).take})
            taking = asyncio.create_task(inbound.run())
            ready.set()
            await stop.wait()
            taking.cancel()
            await asyncio.wait([taking])

    thread = threading.Thread(target=lambda: loop.run_until_complete(live()))
    thread.start()
    try:
        ready.wait(_REACH_S)
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def _wait_until_served(origin: ChunkOrigin) -> None:
    until = time.monotonic() + _REACH_S
    while True:
        try:
            with origin.get("none"):
                return
        except UnreachableError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
