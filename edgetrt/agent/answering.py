"""Commands from their arrival to their reply: looked at, done once, answered, written down."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from edgetrt import wire
from edgetrt.agent.audit import Audit, Line
from edgetrt.agent.commands import Arguments, Command, Means
from edgetrt.agent.entry import EARLIEST_S
from edgetrt.agent.limiter import Allowance
from edgetrt.agent.machine import synced
from edgetrt.errors import (
    CommandError,
    EdgetrtError,
    MessageError,
    NotConnectedError,
    TransportError,
)
from edgetrt.types import Exchange

if TYPE_CHECKING:
    from edgetrt.agent.publisher import Publisher
    from edgetrt.ports import Message, Transport

_log = logging.getLogger(__name__)

REMEMBERED_S = 600.0
"""For how long a command with the same id is a repetition."""

_REMEMBERED = 256
_MOST_TOLD = 300
"""Characters of an error, and bytes of arguments in the audit: what comes must not fill the disk."""

_FLOOD = (60, 0.5)
"""Of all commands together, refused ones included: in a row, and seconds for each after that."""

_AGAIN_S, _GIVE_UP_S = 1.0, 60.0
"""How often a reply that finds no connection is tried again, and for how long."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A command that came.

    Attributes:
        message: what it says.
        topic: where the answer goes.
        correlation: what goes with the answer.
        came_ns: when, by the monotonic clock.
    """

    message: wire.CommandMessage
    topic: str
    correlation: bytes
    came_ns: int


class Answering:
    """Does what the table has and the config allows, and answers everything that has an id.

    Args:
        means: what commands work with.
        transport: where replies go.
        publisher: where events go.
        audit: where it is written down.
        table: every command by name.

    Attributes:
        answered: commands that got a reply, refusals included.
        repeated: commands that came again.
    """

    def __init__(
        self,
        means: Means,
        transport: Transport,
        publisher: Publisher,
        audit: Audit,
        table: Mapping[str, Command],
    ) -> None:
        self.answered = 0
        self.repeated = 0
        self._means = means
        self._transport = transport
        self._publisher = publisher
        self._audit = audit
        self._table = table
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._flood = Allowance(*_FLOOD)
        self._allowances = {name: Allowance(row.burst, row.every_s) for name, row in table.items()}
        self._working: dict[str, asyncio.Task[None]] = {}
        self._replies: set[asyncio.Task[None]] = set()

    @property
    def working(self) -> bool:
        """Whether anything is being done, or answered."""
        return bool(self._working or self._replies)

    def take(self, message: Message) -> None:
        """Take a message from `cmd`; returns at once.

        Raises:
            MessageError: it is no command, or there are too many of them to answer each.
        """
        command = wire.decode(wire.CommandMessage, message.payload)
        now_ns = self._means.now().mono_ns
        self._forget(now_ns)
        if command.id in self._seen:
            self.repeated += 1
            return
        if not self._flood.take(now_ns):
            raise MessageError(f"command {command.id}: one of too many")
        self._seen[command.id] = now_ns
        device = self._means.identity.device
        answer_to, strays = _answer_to(message.exchange, device, command.id)
        asked = Asked(command, answer_to, message.exchange.correlation, now_ns)
        try:
            if strays:
                told = message.exchange.response_topic[:120]
                raise _refusal("topic", f"response topic {told!r}: not among this device's replies")
            row, arguments = self._vet(message, command, now_ns)
        except CommandError as error:
            self._refuse(asked, error)
            return
        self._note(asked, "begun")
        task = asyncio.create_task(self._work(asked, row, arguments), name=f"command-{row.name}")
        self._working[row.name] = task
        task.add_done_callback(lambda _: self._working.pop(row.name, None))

    async def close(self) -> None:
        """End what is at work; its programs are killed."""
        tasks = [*self._working.values(), *self._replies]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _vet(
        self, message: Message, command: wire.CommandMessage, now_ns: int
    ) -> tuple[Command, Arguments]:
        """Whether it is to be done; raises CommandError when not."""
        name = command.command
        if message.retained:
            raise _refusal("retained", "a command that the broker kept", "Publish without retain.")
        self._check_time(message, command, now_ns)
        row = self._table.get(name)
        if row is None:
            raise _refusal(
                "unknown", f"{name!r}: no such command", f"One of {', '.join(self._table)}."
            )
        if name not in self._means.config.control.commands:
            raise _refusal(
                "disabled", f"{name}: not allowed here", "See `control.commands` of agent.yaml."
            )
        try:
            arguments = msgspec.convert(command.arguments, row.arguments)
        except msgspec.ValidationError as error:
            raise _refusal("arguments", f"{name}: {error}", "See docs/mqtt.md.") from error
        if name in self._working:
            raise _refusal("busy", f"{name}: one is at work", "Ask again when it is done.")
        if row.heavy and self._means.updating():
            raise _refusal("busy", f"{name}: an update is on its way", "Ask again after it.")
        if not self._allowances[name].take(now_ns):
            raise _refusal(
                "rate",
                f"{name}: {row.burst} in a row, then one in {row.every_s:g} s",
                "Ask again later.",
            )
        return row, arguments

    def _check_time(self, message: Message, command: wire.CommandMessage, now_ns: int) -> None:
        if message.expires_ns is not None and now_ns >= message.expires_ns:
            raise _refusal("expired", "its message expiry is over", "Ask again.")
        if command.expires is None:
            return
        wall = self._means.now().wall
        if wall < EARLIEST_S or synced(wall) is False:
            raise _refusal(
                "clock",
                "`expires` is given, and this device's clock was not set",
                "Leave it out and use MQTT's message expiry.",
            )
        if wall >= command.expires:
            raise _refusal("expired", f"expired {wall - command.expires:.0f} s ago", "Ask again.")

    def _forget(self, now_ns: int) -> None:
        """Let go of ids that are old, or too many to keep."""
        while self._seen:
            oldest = next(iter(self._seen))
            young = now_ns - self._seen[oldest] < REMEMBERED_S * 1e9
            if young and len(self._seen) < _REMEMBERED:
                return
            del self._seen[oldest]

    async def _work(self, asked: Asked, row: Command, arguments: Arguments) -> None:
        try:
            result = await asyncio.wait_for(row.work(self._means, arguments), row.deadline_s)
        except asyncio.TimeoutError:
            self._refuse(
                asked, _refusal("deadline", f"{row.name}: not done in {row.deadline_s:g} s")
            )
        except EdgetrtError as error:
            self._refuse(asked, _refusal("failed", error.message, error.hint))
        except Exception as error:  # noqa: BLE001 - a fault of ours in one command; the asker hears of it
            _log.debug("command %s", row.name, exc_info=True)
            self._refuse(
                asked, _refusal("failed", f"internal error: {type(error).__name__}: {error}")
            )
        else:
            self._answer(asked, ok=True, result=result)

    def _refuse(self, asked: Asked, error: CommandError) -> None:
        self._answer(asked, ok=False, code=error.code, error=error.message, hint=error.hint)

    def _answer(self, asked: Asked, *, ok: bool, **said: Any) -> None:
        now, identity = self._means.now(), self._means.identity
        reply = wire.ReplyMessage(
            device=identity.device,
            epoch=identity.epoch,
            time=round(now.wall, 3),
            id=asked.message.id,
            command=asked.message.command,
            ok=ok,
            elapsed_s=round((now.mono_ns - asked.came_ns) * 1e-9, 3),
            **said,
        )
        self.answered += 1
        self._note(asked, "ok" if ok else reply.code, reply.error, reply.elapsed_s)
        sending = asyncio.create_task(self._send(asked, wire.encode(reply)))
        self._replies.add(sending)
        sending.add_done_callback(self._replies.discard)

    async def _send(self, asked: Asked, payload: bytes) -> None:
        """Publish a reply; one that finds no connection waits a little for it."""
        exchange = Exchange(correlation=asked.correlation)
        until = time.monotonic() + _GIVE_UP_S
        while True:
            try:
                await self._transport.publish(
                    asked.topic, payload, expiry_s=wire.EXPIRY_S["reply"], exchange=exchange
                )
            except NotConnectedError as error:
                if time.monotonic() >= until:
                    _log.warning("reply to %s: %s", asked.message.id, error.message)
                    return
                await asyncio.sleep(_AGAIN_S)
            except TransportError as error:
                _log.warning("reply to %s: %s", asked.message.id, error.message)
                return
            else:
                return

    def _note(self, asked: Asked, outcome: str, text: str = "", elapsed_s: float = 0.0) -> None:
        """Write down what was asked, and tell of its end."""
        command, now = asked.message, self._means.now()
        self._audit.write(
            Line(
                time=round(now.wall, 3),
                mono_ns=now.mono_ns,
                boot=now.boot,
                id=command.id,
                command=command.command,
                arguments=_short(command.arguments),
                by=command.by,
                reply_to=asked.topic,
                outcome=outcome,
                text=text,
                elapsed_s=elapsed_s,
            )
        )
        if outcome != "begun":
            by = f" by {command.by!r}" if command.by else ""
            told = f"{outcome}: {text}" if text else outcome
            self._publisher.event("command", command.command, f"{command.id}{by}: {told}")


def _refusal(code: str, message: str, hint: str = "") -> CommandError:
    return CommandError(message[:_MOST_TOLD], hint, code)


def _short(arguments: dict[str, Any]) -> dict[str, Any]:
    size = len(msgspec.json.encode(arguments))
    return arguments if size <= _MOST_TOLD else {"bytes": size}


def _answer_to(exchange: Exchange, device: str, command_id: str) -> tuple[str, bool]:
    """Where the answer goes, and whether another place was asked for that is not ours to write to.

    Anything else would let whoever may send commands publish with this device's rights.
    """
    own = wire.reply(device, command_id)
    if not exchange.response_topic:
        return own, False
    try:
        address = wire.parse(exchange.response_topic)
    except MessageError:
        return own, True
    if address.topic.name == "reply" and address.device == device:
        return exchange.response_topic, False
    return own, True
