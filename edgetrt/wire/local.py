"""What is said over the local link besides results and reports: a struct per message."""

from __future__ import annotations

from typing import Any

import msgspec

from edgetrt.wire.messages import FrameResult, PipelineReport, Struct
from edgetrt.wire.requests import Generation


class GrantMessage(Struct, frozen=True, kw_only=True, tag="grant"):
    """What a pipeline may use from now on; agent -> runtime."""

    pipeline: str
    rate_hz: float | None = None


class SettingsMessage(Struct, frozen=True, kw_only=True, tag="settings"):
    """What the control plane wants of a pipeline beyond its file; agent -> runtime.

    `settings` has the keys of `edgetrt.config.PipelineSettings`; those left out are as in the file.
    """

    pipeline: str
    generation: Generation
    settings: dict[str, Any] = msgspec.field(default_factory=dict)


class AskMessage(Struct, frozen=True, kw_only=True, tag="ask"):
    """Something to be done with a pipeline once; agent -> runtime.

    Attributes:
        pipeline: which one.
        what: `snapshot`, `restart` or `bench`.
        reply: name of the asker's socket, beside the runtime's own.
        limit: bytes of a picture at most.
        seconds: how long to measure.
    """

    pipeline: str
    what: str
    reply: str
    limit: int = 0
    seconds: float = 0.0


class AnswerMessage(Struct, frozen=True, kw_only=True, tag="answer"):
    """What came of it; runtime -> asker. `error` is empty when it was done."""

    pipeline: str
    what: str
    error: str = ""
    hint: str = ""
    result: dict[str, Any] = msgspec.field(default_factory=dict)


class ActivateMessage(Struct, frozen=True, kw_only=True, tag="activate"):
    """What should run may be another thing now: look again, and run that; agent or command -> runtime.

    Attributes:
        pipeline: this one only; empty = everything.
        reply: name of the asker's socket, beside the runtime's own.
        shadow: how many live frames a new network looks at beside the old one, before it takes over.
    """

    pipeline: str = ""
    reply: str
    shadow: int = 0


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one pipeline.

    Attributes:
        did: `kept` as it was, `swapped` between two frames, `started`, `restarted` or `stopped`.
        engine: that it runs now.
        error: why it did not take what it should; it does what it did before.
        agreement: of the new network with the old one on the same live frames, 0..1; None = they were
            not compared, or there was nothing to compare.
        compared: frames of that.
    """

    pipeline: str
    did: str
    engine: str = ""
    error: str = ""
    agreement: float | None = None
    compared: int = 0


class ActivatedMessage(Struct, frozen=True, kw_only=True, tag="activated"):
    """What came of it; runtime -> asker. `error` is empty when everything asked for runs now.

    `pipeline` and `engine` are those of the question; `pipelines` has every one that was looked at.
    """

    pipeline: str
    engine: str
    error: str = ""
    pipelines: tuple[Taken, ...] = ()


LinkMessage = (
    FrameResult
    | PipelineReport
    | GrantMessage
    | SettingsMessage
    | AskMessage
    | AnswerMessage
    | ActivateMessage
    | ActivatedMessage
)
