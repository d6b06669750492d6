"""Where it is said: the table of topics, and their names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edgetrt.errors import MessageError
from edgetrt.wire.chunks import ChunkMessage, FetchMessage
from edgetrt.wire.messages import (
    VERSION,
    EventMessage,
    HealthMessage,
    ReportedMessage,
    ResultMessage,
    StatusMessage,
    Struct,
)
from edgetrt.wire.requests import (
    AnnounceMessage,
    CommandMessage,
    DesiredMessage,
    ReplyMessage,
)

QOS = 1
UP = "edgetrt/v1/u"
DOWN = "edgetrt/v1/d"

_NAME = re.compile(r"[a-z0-9-]{1,63}")


@dataclass(frozen=True, slots=True)
class Topic:
    """A row of the contract.

    Attributes:
        name: level after the device.
        pattern: with `{device}`, `{pipeline}` and `{id}` to be filled in.
        direction: `up` = device to fleet, `down` = fleet to device.
        qos: always 1.
        retained: whether the broker keeps the last message for late subscribers.
        expiry_s: how long the broker keeps it for a subscriber that is away; None = for ever.
        kind: type of the body.
        about: one line for people.
    """

    name: str
    pattern: str
    direction: Literal["up", "down"]
    retained: bool
    kind: type[Struct]
    about: str
    expiry_s: int | None = None
    qos: int = QOS


TOPICS = (
    Topic(
        "status",
        f"{UP}/{{device}}/status",
        "up",
        True,
        StatusMessage,
        "whether the device is connected; also its last will",
    ),
    Topic(
        "reported",
        f"{UP}/{{device}}/reported",
        "up",
        True,
        ReportedMessage,
        "versions, pipelines and their engines; on each connection and on change",
    ),
    Topic(
        "event",
        f"{UP}/{{device}}/event",
        "up",
        False,
        EventMessage,
        "what happened once: a pipeline changed its state, the device its health",
        86400,
    ),
    Topic(
        "health",
        f"{UP}/{{device}}/health",
        "up",
        False,
        HealthMessage,
        "the verdict and its reasons, pipelines, agent, machine; on a period and on change",
        3600,
    ),
    Topic(
        "result",
        f"{UP}/{{device}}/result/{{pipeline}}",
        "up",
        False,
        ResultMessage,
        "objects of one frame; per frame, or at most `publish.result_hz`",
        3600,
    ),
    Topic(
        "reply",
        f"{UP}/{{device}}/reply/{{id}}",
        "up",
        False,
        ReplyMessage,
        "what came of the command with this id, or of the response topic that it named",
        600,
    ),
    Topic(
        "fetch",
        f"{UP}/{{device}}/fetch",
        "up",
        False,
        FetchMessage,
        "a part of a release that is asked for, where the device fetches over the broker",
        30,
    ),
    Topic(
        "desired",
        f"{DOWN}/{{device}}/desired",
        "down",
        True,
        DesiredMessage,
        "what the device shall run: a signed envelope, or plain settings where they are allowed",
    ),
    Topic(
        "cmd",
        f"{DOWN}/{{device}}/cmd",
        "down",
        False,
        CommandMessage,
        "a command to do once",
        60,
    ),
    Topic(
        "chunk",
        f"{DOWN}/{{device}}/chunk",
        "down",
        False,
        ChunkMessage,
        "the part that was asked for",
        30,
    ),
    Topic(
        "announce",
        f"{DOWN}/all/announce",
        "down",
        False,
        AnnounceMessage,
        "something that every device may want to look at, such as new metadata",
        3600,
    ),
)

EXPIRY_S = {row.name: row.expiry_s for row in TOPICS}
"""`Topic.expiry_s` by name."""


@dataclass(frozen=True, slots=True)
class Address:
    """A concrete topic, taken apart; what the topic does not have is empty."""

    topic: Topic
    device: str = ""
    pipeline: str = ""
    id: str = ""


def status(device: str) -> str:
    """Topic of a device's status."""
    return f"{UP}/{_named('device', device)}/status"


def reported(device: str) -> str:
    """Topic of what a device is and runs."""
    return f"{UP}/{_named('device', device)}/reported"


def event(device: str) -> str:
    """Topic of a device's events."""
    return f"{UP}/{_named('device', device)}/event"


def health(device: str) -> str:
    """Topic of a device's health."""
    return f"{UP}/{_named('device', device)}/health"


def result(device: str, pipeline: str) -> str:
    """Topic of the results of one pipeline."""
    return f"{UP}/{_named('device', device)}/result/{_named('pipeline', pipeline)}"


def reply(device: str, command_id: str) -> str:
    """Topic of the reply to a command."""
    return f"{UP}/{_named('device', device)}/reply/{_named('command id', command_id)}"


def fetch(device: str) -> str:
    """Topic on which a device asks for parts of files."""
    return f"{UP}/{_named('device', device)}/fetch"


def desired(device: str) -> str:
    """Topic of what a device shall run."""
    return f"{DOWN}/{_named('device', device)}/desired"


def cmd(device: str) -> str:
    """Topic of commands to a device."""
    return f"{DOWN}/{_named('device', device)}/cmd"


def chunk(device: str) -> str:
    """Topic of the parts of files that a device asked for."""
    return f"{DOWN}/{_named('device', device)}/chunk"


ANNOUNCE = f"{DOWN}/all/announce"
"""Topic of what is said to every device."""

FETCHES = f"{UP}/+/fetch"
"""Filter for what every device asks of whoever serves the repository."""


def everything_to(device: str, *, chunks: bool = False) -> tuple[str, ...]:
    """What a device subscribes to; `chunks`: it fetches releases over the broker."""
    always = desired(device), cmd(device), ANNOUNCE
    return (*always, chunk(device)) if chunks else always


def everything_from(device: str | None = None) -> str:
    """Filter for all that a device, or every device, publishes."""
    return f"{UP}/{'+' if device is None else _named('device', device)}/#"


def parse(topic: str) -> Address:
    """Take a concrete topic apart.

    Raises:
        MessageError: no topic of this contract.
    """
    for row in TOPICS:
        pattern = row.pattern.format(
            device="(?P<device>[a-z0-9-]{1,63})",
            pipeline="(?P<pipeline>[a-z0-9-]{1,63})",
            id="(?P<id>[a-z0-9-]{1,63})",
        )
        if match := re.fullmatch(pattern, topic):
            return Address(row, **match.groupdict())
    raise MessageError(f"topic {topic[:200]!r}: not in the contract of version {VERSION}")


def _named(what: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise MessageError(
            f"{what} {name[:80]!r}: not usable in a topic",
            "Use lower-case letters, digits and '-', 63 characters at most.",
        )
    return name
