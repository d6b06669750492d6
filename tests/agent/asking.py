"""What commands need around them, faked, for the tests of what is asked from afar."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetrt import wire
from edgetrt.agent.answering import Answering
from edgetrt.agent.audit import Audit
from edgetrt.agent.commands import TABLE, Command, Means
from edgetrt.agent.entry import Moment
from edgetrt.agent.identity import Identity
from edgetrt.agent.programs import Done
from edgetrt.config import DeviceConfig
from edgetrt.types import Exchange
from tests.fakes import FakeMessage, FakeTransport

SECOND = 1_000_000_000
OWN = "edgetrt/v1/u/cam-1/reply/"


class Events:
    """A publisher that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []

    def event(self, event: str, about: str, text: str) -> None:
        self.told.append((event, about, text))


@dataclass
class Asker:
    """Sends commands to an `Answering` and reads what comes back."""

    folder: Path
    config: DeviceConfig = field(default_factory=DeviceConfig)
    table: dict[str, Command] = field(default_factory=lambda: dict(TABLE))
    wall: float = 1_800_000_000.0
    mono_ns: int = 100 * SECOND
    done: Done = Done(0, b"", b"", False)  # noqa: RUF009 - it is frozen
    answer: wire.AnswerMessage = wire.AnswerMessage(pipeline="street", what="snapshot")  # noqa: RUF009
    update: bool = False

    def __post_init__(self) -> None:
        self.transport = FakeTransport()
        self.events = Events()
        self.audit = Audit(self.folder / "audit")
        self.ran: list[list[str]] = []
        self.asked: list[wire.AskMessage] = []
        self.answering = Answering(
            Means(
                identity=Identity("cam-1", 7, "0.2.0", "boot"),
                config=self.config,
                config_path=Path("agent.yaml"),
                run_folder=self.folder,
                state_folder=self.folder,
                now=lambda: Moment(self.wall, self.mono_ns, "boot"),
                started_ns=90 * SECOND,
                health=lambda: None,
                lines=lambda count: [f"line {n}" for n in range(count)][-3:],
                run=self._run,
                ask=self._ask,
                updating=lambda: self.update,
            ),
            self.transport,
            self.events,  # type: ignore[arg-type]
            self.audit,
            self.table,
        )

    async def _run(self, argv: list[str]) -> Done:
        self.ran.append(argv)
        return self.done

    async def _ask(
        self, question: Callable[[str], wire.AskMessage], timeout_s: float
    ) -> wire.AnswerMessage:
        self.asked.append(question("ask-1-1.sock"))
        return self.answer

    def send(self, name: str, command_id: str = "a1", **said: Any) -> None:
        """Let a command arrive."""
        fields = {key: said.pop(key) for key in ("arguments", "expires", "by") if key in said}
        body = wire.encode(wire.CommandMessage(id=command_id, command=name, **fields))
        if "topic" in said:
            said["exchange"] = Exchange(said.pop("topic"), b"mine")
        self.answering.take(FakeMessage(wire.cmd("cam-1"), body, **said))

    async def rest(self) -> None:
        """Wait until nothing is at work."""
        for _ in range(500):
            if not self.answering.working:
                return
            await asyncio.sleep(0.002)
        raise AssertionError("something is at work for ever")

    @property
    def replies(self) -> list[wire.ReplyMessage]:
        return [wire.decode(wire.ReplyMessage, body) for _, body, _ in self.transport.published]

    @property
    def topics(self) -> list[str]:
        return [topic for topic, _, _ in self.transport.published]


def drive(asker: Asker, scenario: Callable[[Asker], Awaitable[None]]) -> Asker:
    """Run a scenario with a connected transport."""

    async def run() -> None:
        async with asker.transport:
            await asyncio.wait_for(scenario(asker), 30)
            await asker.rest()
            await asker.answering.close()

    asyncio.run(run())
    return asker
