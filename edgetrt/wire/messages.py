"""What is said: a struct per message."""

from __future__ import annotations

from typing import Any

import msgspec

from edgetrt.types import BoardState, Counters, StageStats
from edgetrt.wire.updates import UpdateReport

VERSION = 1


class Struct(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="struct"):
    """What every message is: frozen, versioned, and tagged with its kind."""

    v: int = VERSION


class Box(msgspec.Struct, frozen=True, kw_only=True, rename={"class_": "class"}):
    """One object: `box` is x1 y1 x2 y2 in pixels of the frame, `class` the index of `label`."""

    box: tuple[float, float, float, float]
    score: float
    label: str
    class_: int


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """An output that is not decoded: row-major `data`, None when too long to send."""

    shape: tuple[int, ...]
    dtype: str
    data: tuple[float | None, ...] | None = None


class FrameResult(Struct, frozen=True, kw_only=True, tag="frame"):
    """What a pipeline says about one frame; runtime -> agent, and a line of a JSON lines file.

    Attributes:
        pipeline: its name.
        frame: number of the frame in the order of capture; a gap is a frame that was dropped.
        mono_ns: monotonic clock of this boot at capture.
        size: width and height of the frame in pixels.
        engine: fingerprint of the engine.
        latency_ms: capture to decoded result.
        objects: best score first; None when the task does not decode objects.
        tensors: the network's own outputs when the task is `raw`.
        dropped: frames of this pipeline lost so far between source and result.
        unsent: results of this pipeline that the link did not take so far.
    """

    pipeline: str
    frame: int
    mono_ns: int
    size: tuple[int, int]
    engine: str
    latency_ms: float
    objects: tuple[Box, ...] | None = None
    tensors: dict[str, Tensor] | None = None
    dropped: int = 0
    unsent: int = 0


class ResultMessage(FrameResult, frozen=True, kw_only=True, tag="result"):
    """A `FrameResult` as published.

    Attributes:
        device: who publishes.
        epoch: grows with every start of the agent.
        seq: 0, 1, 2, … over all results, events and health messages of the device in this epoch; a
            gap is a message that was not sent.
        time: capture in seconds since 1970, by the device's clock when the result was made.
        boot: which boot `mono_ns` belongs to.
        historical: it waited for a connection. The last field, so that it can be set in what is
            encoded already.
    """

    device: str
    epoch: int
    seq: int
    time: float
    boot: str
    historical: bool = False


class PipelineReport(Struct, frozen=True, kw_only=True, tag="pipeline"):
    """`edgetrt.types.PipelineHealth`, as JSON; runtime -> agent, and inside `HealthMessage`.

    `age_s` = how long ago the runtime said so; it grows when the runtime is gone. `settings` are those
    that are in force beyond its file, `generation` counts the last that were looked at, and `unsettled`
    says why those are not in force, else it is empty. `rss_bytes` is the
    runtime's resident memory, all pipelines together; None where the system does not tell. `process_ns`
    is when its process began, by the monotonic clock: another value is another process.
    """

    pipeline: str
    state: str
    backend: str
    engine: str
    fps: float
    latency: StageStats | None
    stages: dict[str, StageStats]
    counters: Counters
    error: str = ""
    objects: float | None = None
    age_s: float = 0.0
    rss_bytes: int | None = None
    process_ns: int = 0
    settings: dict[str, Any] = {}
    generation: int = 0
    unsettled: str = ""


class AgentReport(msgspec.Struct, frozen=True, kw_only=True):
    """The agent about itself, counted since its start.

    received = published + limited + unsent + pending, so that an observer can reconcile.

    Attributes:
        rss_bytes: resident memory; None where the system does not tell.
        uptime_s: since the agent started.
        received: results taken from the link.
        published: results the broker acknowledged.
        limited: results left out by `publish.result_hz`.
        unsent: results given up: refused by the broker, or dropped at a limit of the outbox.
        pending: results waiting for the broker's acknowledgement now.
        malformed: datagrams from the link that were not a message.
        link_dropped: results that the link did not take from the runtime.
        reconnects: connections to the broker after the first.
        commands: commands that were answered, refusals included.
        refused: messages from the broker that were no message for this device, or not to be trusted.
    """

    rss_bytes: int | None
    uptime_s: float
    received: int = 0
    published: int = 0
    limited: int = 0
    unsent: int = 0
    pending: int = 0
    malformed: int = 0
    link_dropped: int = 0
    reconnects: int = 0
    commands: int = 0
    refused: int = 0


class OutboxReport(msgspec.Struct, frozen=True, kw_only=True):
    """What waits for the broker; counts by class: `event`, `health`, `result`.

    Attributes:
        store: `disk` or `memory`.
        error: why the disk is not used, or empty.
        rows: messages that wait, of this epoch and earlier ones.
        bytes: what they take.
        limit_bytes: what they may take in all.
        dropped: messages removed at a limit since the agent started.
        recovered: messages of earlier epochs published since then.
        moved_aside: damaged files replaced since then.
        unheard: nobody subscribed to what was published last; it is kept until someone does.
    """

    store: str = "memory"
    error: str = ""
    rows: dict[str, int] = {}
    bytes: dict[str, int] = {}
    limit_bytes: int = 0
    dropped: dict[str, int] = {}
    recovered: int = 0
    moved_aside: int = 0
    unheard: bool = False


class MachineReport(msgspec.Struct, frozen=True, kw_only=True):
    """Memory and the disk of the agent's state, in bytes; None where the system does not tell."""

    memory_total: int | None = None
    memory_available: int | None = None
    disk_total: int | None = None
    disk_free: int | None = None


class ClockReport(msgspec.Struct, frozen=True, kw_only=True):
    """By which the time of samples can be mended: at the message's `time` it was `mono_ns` of `boot`.

    `synced`: whether the wall clock was set from the network since this boot; None = not known.
    """

    boot: str = ""
    mono_ns: int = 0
    synced: bool | None = None


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why the device is not well.

    Attributes:
        state: `degraded` or `failing`.
        code: one word that machines can count, such as `rate`; never reworded.
        about: the pipeline or part.
        text: for people, with the value and its limit.
    """

    state: str
    code: str
    about: str
    text: str


class HealthMessage(Struct, frozen=True, kw_only=True, tag="health"):
    """How the device does; published on a period and on every change of a state.

    `state` is `ok`, `degraded` or `failing`, the worst of the `reasons`.
    """

    device: str
    epoch: int
    seq: int
    time: float
    version: str
    agent: AgentReport
    pipelines: tuple[PipelineReport, ...] = ()
    state: str = "ok"
    reasons: tuple[Reason, ...] = ()
    outbox: OutboxReport = OutboxReport()
    machine: MachineReport = MachineReport()
    board: BoardState = BoardState()
    clock: ClockReport = ClockReport()
    historical: bool = False


class EventMessage(Struct, frozen=True, kw_only=True, tag="event"):
    """Something that happened once.

    Attributes:
        event: one word, such as `health` or `pipeline`; never reworded.
        about: the pipeline or part.
        text: for people.
        mono_ns: monotonic clock of `boot` when it happened.
    """

    device: str
    epoch: int
    seq: int
    time: float
    boot: str
    mono_ns: int
    event: str
    about: str = ""
    text: str = ""
    historical: bool = False


class ReportedPipeline(msgspec.Struct, frozen=True, kw_only=True):
    """What a pipeline runs, and with which settings; see `PipelineReport`."""

    pipeline: str
    state: str
    backend: str
    engine: str
    settings: dict[str, Any] = {}
    generation: int = 0
    unsettled: str = ""


class ReportedMessage(Struct, frozen=True, kw_only=True, tag="reported"):
    """What the device is and runs; retained, published on each connection and on every change.

    Attributes:
        version: of edgetrt.
        python: of the interpreter.
        system: kernel and architecture.
        clock: for mending the time of samples.
        pipelines: by name.
        generation: of the settings that the device was told last; 0 = never any.
        unsettled: pipelines that do not run with those settings, and why.
        update: the last release and how far it is; None = this device takes no releases.
    """

    device: str
    epoch: int
    time: float
    version: str
    python: str = ""
    system: str = ""
    clock: ClockReport = ClockReport()
    pipelines: tuple[ReportedPipeline, ...] = ()
    generation: int = 0
    unsettled: dict[str, str] = {}
    update: UpdateReport | None = None


class StatusMessage(Struct, frozen=True, kw_only=True, tag="status"):
    """Whether the device is there; retained, and the last will.

    A will was written when the connection was made, so its `time` is that of the connection.
    `reason`: `connected`, `stopped` (on purpose) or `lost` (told by the broker).
    """

    device: str
    online: bool
    epoch: int
    time: float
    version: str
    reason: str = ""
