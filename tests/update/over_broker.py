"""Both ends of a repository behind the broker: a device's line, and who serves it, lying or not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from edgetrt import wire
from edgetrt.agent.chunks import Chunks
from edgetrt.agent.inbound import Inbound
from edgetrt.config import BrokerConfig
from edgetrt.mqtt import MqttTransport, Settings
from edgetrt.update.chunks import ChunkOrigin
from edgetrt.update.line import Failed, Line
from edgetrt.update.origin import Limits
from edgetrt.update.serve import ChunkServer
from edgetrt.update.steps import Sources
from edgetrt.update.tree import Tree

PATIENT = Limits(answer_s=20, gap_s=20)
QUICK = Limits(answer_s=0.3, gap_s=0.3, window_s=0.2, window_bytes=1000)

Reply = list[tuple[bytes, bytes]]
"""Correlation data and payload of each message that comes back."""
Talk = Callable[[wire.FetchMessage, bytes], Reply]
"""A server: what it answers to a request with this correlation data."""


class Script:
    """A server in memory that answers as told, before the asker goes on.

    Attributes:
        asked: every request, in order.
    """

    def __init__(self, talk: Talk) -> None:
        self.asked: list[wire.FetchMessage] = []
        self.line = Line()
        self.line.connect(self._post)
        self._talk = talk

    def _post(self, payload: bytes, correlation: bytes, _: Failed) -> None:
        wanted = wire.decode(wire.FetchMessage, payload)
        self.asked.append(wanted)
        for key, answer in self._talk(wanted, correlation):
            self.line.take(key, answer)


def part(whole: bytes, wanted: wire.FetchMessage, **lies: object) -> bytes:
    """The true chunk of a file, but for the lies."""
    told = {
        "path": wanted.path,
        "offset": wanted.offset,
        "size": len(whole),
        "data": whole[wanted.offset : wanted.offset + wanted.length],
    }
    return wire.encode(wire.ChunkMessage(**{**told, **lies}))  # type: ignore[arg-type]


def from_line(line: Line, limits: Limits = PATIENT, chunk_bytes: int = 4096) -> Sources:
    """A device's sources."""
    return Sources(
        ChunkOrigin(line, "metadata", limits, chunk_bytes),
        (ChunkOrigin(line, "targets", limits, chunk_bytes),),
    )


@contextmanager
def device_line(broker: BrokerConfig, device: str) -> Iterator[Line]:
    """A device's line over a real connection, as the agent makes it."""
    line = Line()
    subscriptions = wire.everything_to(device, chunks=True)
    transport = MqttTransport(broker, device, subscriptions=subscriptions)

    @asynccontextmanager
    async def connected() -> AsyncIterator[None]:
        async with transport:
            await transport.reach(20)
            taking = Inbound(device, transport, {"chunk": Chunks(device, transport, line).take})
            with running(asyncio.create_task(taking.run())):
                yield

    with in_thread(connected):
        yield line


@contextmanager
def served(broker: BrokerConfig, tree: Path, device_bytes_s: float = 0.0) -> Iterator[ChunkServer]:
    """Our server, over a connection of its own."""
    transport = MqttTransport(
        broker,
        "edgetrt.repository",
        subscriptions=(wire.FETCHES,),
        settings=Settings(session_expiry_s=0),
    )
    made: list[ChunkServer] = []

    @asynccontextmanager
    async def connected() -> AsyncIterator[None]:
        with contextlib.closing(Tree(tree)) as files:
            async with transport:
                await transport.reach(20)
                made.append(ChunkServer(files, transport, device_bytes_s))
                with running(asyncio.create_task(made[0].run())):
                    yield

    with in_thread(connected):
        yield made[0]


@contextmanager
def running(task: asyncio.Task[None]) -> Iterator[None]:
    """A task that is cancelled at the end."""
    try:
        yield
    finally:
        task.cancel()


@contextmanager
def in_thread(part: Callable[[], contextlib.AbstractAsyncContextManager[None]]) -> Iterator[None]:
    """Let something live in an event loop of its own, as long as the block lasts."""
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        stop = asyncio.Event()
        async with part():
            ready.set_result((asyncio.get_running_loop(), stop))
            await stop.wait()

    with ThreadPoolExecutor(1) as pool:
        living = pool.submit(asyncio.run, live())
        wait([living, ready], return_when=FIRST_COMPLETED)
        if living.done():
            living.result()
        loop, stop = ready.result()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(stop.set)
            living.result()
