"""The table of commands: what each takes, how long it may take, how often it may come, what it does."""

from __future__ import annotations

import base64
import platform
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec

from edgetrt import wire
from edgetrt.agent import bundle
from edgetrt.agent.entry import Moment
from edgetrt.agent.identity import Identity
from edgetrt.agent.machine import synced
from edgetrt.agent.programs import Done
from edgetrt.config import DeviceConfig, Name
from edgetrt.errors import ConfigError, EdgetrtError, TransportError

PICTURE_BYTES = 96 * 1024
"""Of a JPEG; as base64 it takes 128 KB of a message."""

LOG_BYTES = 48 * 1024
LOG_LINES = 1000
_JOURNAL = ("journalctl", "--no-pager", "-q", "-o", "short-iso", "-u", "edgetrt-*")


class Asks(Protocol):
    """Asks the runtime for something and waits for its answer."""

    async def __call__(
        self, question: Callable[[str], wire.AskMessage], timeout_s: float
    ) -> wire.AnswerMessage:
        """Ask.

        Raises:
            TransportError: no runtime answers.
            EdgetrtError: what was asked for was not done.
        """


@dataclass(frozen=True)
class Means:
    """What commands do their work with.

    Attributes:
        identity: who we are.
        config: this device's.
        config_path: its file; None when there is none.
        run_folder: where the runtime leaves pictures; None = there is no runtime.
        state_folder: where diagnostics go; None = nowhere.
        now: by both clocks.
        started_ns: of this agent, by the monotonic clock.
        health: the last that was told.
        lines: the last lines of the agent's own log, so many at most.
        run: runs a program.
        ask: asks the runtime.
        updating: whether an update is on its way.
    """

    identity: Identity
    config: DeviceConfig
    config_path: Path | None
    run_folder: Path | None
    state_folder: Path | None
    now: Callable[[], Moment]
    started_ns: int
    health: Callable[[], wire.HealthMessage | None]
    lines: Callable[[int], list[str]]
    run: Callable[..., Awaitable[Done]]
    ask: Asks
    updating: Callable[[], bool]


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a command that takes none."""


class OfPipeline(Arguments, frozen=True, kw_only=True):
    """Which pipeline."""

    pipeline: Name


class OfSnapshot(OfPipeline, frozen=True, kw_only=True):
    """Which pipeline, and how many bytes of JPEG at most."""

    max_bytes: Annotated[int, msgspec.Meta(ge=4096, le=PICTURE_BYTES)] = PICTURE_BYTES


class OfLogs(Arguments, frozen=True, kw_only=True):
    """How many lines."""

    lines: Annotated[int, msgspec.Meta(ge=1, le=LOG_LINES)] = 100


class OfBench(OfPipeline, frozen=True, kw_only=True):
    """Which pipeline, and how long to measure."""

    seconds: Annotated[float, msgspec.Meta(ge=0.5, le=30.0)] = 5.0


@dataclass(frozen=True)
class Command:
    """A row.

    Attributes:
        name: as it comes.
        does: for people.
        work: does it; returns the reply's result.
        arguments: what it takes.
        deadline_s: it is ended then.
        burst: so many may come in a row.
        every_s: after that one may come per so many seconds.
        heavy: not while an update is on its way.
    """

    name: str
    does: str
    work: Callable[[Means, Any], Awaitable[dict[str, Any]]]
    arguments: type[Arguments]
    deadline_s: float
    burst: int
    every_s: float
    heavy: bool = False


async def ping(means: Means, _: Arguments) -> dict[str, Any]:
    """Say who is there and what its clocks say."""
    now = means.now()
    return {
        "version": means.identity.version,
        "python": platform.python_version(),
        "epoch": means.identity.epoch,
        "time": round(now.wall, 3),
        "mono_ns": now.mono_ns,
        "boot": now.boot,
        "synced": synced(now.wall),
        "uptime_s": round((now.mono_ns - means.started_ns) * 1e-9, 3),
    }


async def doctor(means: Means, _: Arguments) -> dict[str, Any]:
    """Examine the machine in a process of its own, because that loads every library there is."""
    argv = [sys.executable, "-m", "edgetrt", "doctor", "--json"]
    if means.config_path is not None:
        argv += ["--config", str(means.config_path)]
    done = await means.run(argv)
    try:
        said: dict[str, Any] = msgspec.json.decode(done.out, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        told = done.err.decode(errors="replace").strip()[-300:]
        raise EdgetrtError(f"edgetrt doctor: ended with {done.status}: {told or error}") from error
    return said


async def logs(means: Means, asked: OfLogs) -> dict[str, Any]:
    """The journal of every unit of ours, where this user may read it; else the agent's own lines."""
    lines, source = await journal(means, asked.lines), "journal"
    if not lines:
        lines, source = means.lines(asked.lines), "agent"
    kept = last(lines, LOG_BYTES)
    return {"source": source, "lines": kept, "cut": len(kept) < len(lines)}


async def journal(means: Means, count: int) -> list[str]:
    """The last lines of the journal; empty where it cannot be read."""
    try:
        done = await means.run([*_JOURNAL, "-n", str(count)])
    except EdgetrtError:
        return []
    return done.out.decode(errors="replace").splitlines() if done.status == 0 else []


def last(lines: list[str], most_bytes: int) -> list[str]:
    """As many of the last lines as fit; a line that does not fit by itself is cut."""
    kept: list[str] = []
    left = most_bytes
    for line in reversed(lines):
        data = line.encode(errors="replace")[:most_bytes]
        left -= len(data) + 1
        if left < 0 and kept:
            break
        kept.append(data.decode(errors="replace"))
    return kept[::-1]


async def snapshot(means: Means, asked: OfSnapshot) -> dict[str, Any]:
    """Let the runtime draw its next result into a file, and send that."""
    answer = await means.ask(
        lambda reply: wire.AskMessage(
            pipeline=asked.pipeline, what="snapshot", reply=reply, limit=asked.max_bytes
        ),
        15.0,
    )
    told = dict(answer.result)
    picture = _take_away(means, str(told.pop("file", "")), asked.max_bytes)
    return {**told, "media_type": "image/jpeg", "data": base64.b64encode(picture).decode()}


def _take_away(means: Means, name: str, most_bytes: int) -> bytes:
    """The picture that the runtime left, which is not left there."""
    if means.run_folder is None or not name or Path(name).name != name:
        raise TransportError(f"snapshot: the runtime named no picture: {name[:80]!r}")
    path = means.run_folder / name
    try:
        picture = path.read_bytes()
        path.unlink()
    except OSError as error:
        raise TransportError(f"snapshot {path}: cannot be read: {error.strerror}") from error
    if len(picture) > most_bytes:
        raise TransportError(f"snapshot: {len(picture)} bytes, at most {most_bytes} were asked for")
    return picture


async def restart_pipeline(means: Means, asked: OfPipeline) -> dict[str, Any]:
    """Close and open a pipeline's source and network."""
    answer = await means.ask(
        lambda reply: wire.AskMessage(pipeline=asked.pipeline, what="restart", reply=reply), 12.0
    )
    return dict(answer.result)


async def bench(means: Means, asked: OfBench) -> dict[str, Any]:
    """Measure the engine that serves, beside the pipeline that goes on."""
    answer = await means.ask(
        lambda reply: wire.AskMessage(
            pipeline=asked.pipeline, what="bench", reply=reply, seconds=asked.seconds
        ),
        140.0,
    )
    return dict(answer.result)


async def collect(means: Means, _: Arguments) -> dict[str, Any]:
    """Pack what a person needs who looks into a fault; it stays on the device."""
    if means.state_folder is None:
        raise ConfigError("collect: this agent has no state folder", "Start it with one.")
    said: dict[str, object] = {"status": means.health(), "config": means.config}
    try:
        said["doctor"] = await doctor(means, Arguments())
    except EdgetrtError as error:
        said["doctor"] = error.message
    lines = await journal(means, LOG_LINES)
    texts = {"journal.txt": lines, "agent.txt": means.lines(LOG_LINES)}
    return await bundle.collect(means.state_folder, means.identity.device, means.now(), said, texts)


TABLE = {
    row.name: row
    for row in (
        Command("ping", "says versions, times and the epoch", ping, Arguments, 5.0, 10, 1.0),
        Command("doctor", "runs `edgetrt doctor`", doctor, Arguments, 60.0, 2, 60.0),
        Command(
            "snapshot",
            "draws the next result and sends the picture as base64",
            snapshot,
            OfSnapshot,
            20.0,
            5,
            5.0,
        ),
        Command(
            "logs",
            "sends the last lines of the journal, or of the agent",
            logs,
            OfLogs,
            15.0,
            5,
            5.0,
        ),
        Command(
            "restart-pipeline",
            "closes and opens source and network",
            restart_pipeline,
            OfPipeline,
            15.0,
            3,
            20.0,
        ),
        Command(
            "bench",
            "measures the engine that serves, at low priority",
            bench,
            OfBench,
            150.0,
            1,
            120.0,
            heavy=True,
        ),
        Command(
            "collect",
            "packs diagnostics into a file on the device",
            collect,
            Arguments,
            120.0,
            1,
            60.0,
        ),
    )
}
"""Every command that there is."""
