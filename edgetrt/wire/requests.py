"""What is asked of a device, and what it answers: a struct per message."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from edgetrt.wire.messages import Struct

Id = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,63}\Z")]
"""Of a command; it becomes a level of the reply's topic."""

Word = Annotated[str, msgspec.Meta(pattern=r"^[ -~]{0,63}\Z")]
"""On one line, for it ends up in logs."""

Generation = Annotated[int, msgspec.Meta(ge=1, le=2**53)]


class DesiredMessage(Struct, frozen=True, kw_only=True, tag="desired"):
    """What pipelines shall do, in plain words; taken only where the device's config allows it.

    A device with a trust root takes the signed envelope alone.

    Attributes:
        generation: grows with every change; an older one than the last is left alone.
        settings: by pipeline; keys as in `edgetrt.config.PipelineSettings`.
    """

    generation: Generation
    settings: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


class CommandMessage(Struct, frozen=True, kw_only=True, tag="command"):
    """Something to do once.

    Attributes:
        id: of this one; the same id within ten minutes is not done again.
        command: its name, see the table of commands.
        arguments: of the command.
        expires: seconds since 1970; later it is not begun.
        by: who asks, in their own words; it is written down and proves nothing.
    """

    id: Id
    command: Word
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)
    expires: float | None = None
    by: Annotated[str, msgspec.Meta(max_length=200)] = ""


class ReplyMessage(Struct, frozen=True, kw_only=True, tag="reply"):
    """What came of a command.

    Attributes:
        id: of the command.
        command: its name.
        ok: it was done.
        code: one word why not, such as `unknown` or `rate`; never reworded; empty when done.
        error: the same for people.
        hint: what to do about it.
        result: of the command when done.
        elapsed_s: from its arrival to this reply.
    """

    device: str
    epoch: int
    time: float
    id: str
    command: str
    ok: bool
    code: str = ""
    error: str = ""
    hint: str = ""
    result: dict[str, Any] = msgspec.field(default_factory=dict)
    elapsed_s: float = 0.0


class AnnounceMessage(Struct, frozen=True, kw_only=True, tag="announce"):
    """Something that every device may want to look at, `about` one word such as `repository`."""

    about: Word
