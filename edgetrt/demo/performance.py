"""The demo from beginning to end: broker, agent and runtime as real processes, and a subscriber outside.

The subscriber is a connection of its own; what the summary calls received is counted from its messages
and from nothing else.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgetrt.children import Children
from edgetrt.config import BrokerConfig
from edgetrt.demo.listening import listening
from edgetrt.demo.observer import Observer
from edgetrt.errors import EdgetrtError

DEVICE, PIPELINE = "demo", "street"
ONLINE_S, SETTLE_S = 20.0, 15.0
"""How long the agent may take to appear, and the last messages to arrive."""

TRIES = 3
"""Failed starts of the pipeline after which the demo is over."""

Watch = Callable[[Observer], None]


@dataclass(frozen=True)
class Plan:
    """What to show.

    Attributes:
        model: the network.
        source: URI of the video or scene.
        frames: end after this many; None = the whole source.
        backend: as in a pipeline file.
        broker: where the messages go.
        folder: for the configuration and the sockets.
        output: where the annotated video and picture go.
        limit_s: give up after this long.
    """

    model: Path
    source: str
    frames: int | None
    backend: str
    broker: BrokerConfig
    folder: Path
    output: Path
    limit_s: float


@dataclass(frozen=True)
class Check:
    """One thing that the demo promises."""

    name: str
    ok: bool
    value: str


@dataclass(frozen=True)
class Summary:
    """What happened, as the subscriber saw it, and whether every part worked."""

    seen: Observer
    checks: tuple[Check, ...]
    elapsed_s: float

    @property
    def ok(self) -> bool:
        """Whether every part worked."""
        return all(check.ok for check in self.checks)


async def perform(plan: Plan, watch: Watch) -> Summary:
    """Run everything; `watch` is called several times a second.

    Raises:
        EdgetrtError: a part did not start, or did not end in time.
    """
    started = time.monotonic()
    config = _write_config(plan)
    options = ["--config", str(config), "--run-dir", str(plan.folder)]
    frames = ["--frames", str(plan.frames)] if plan.frames else []
    children = Children({"agent": ["agent", *options], "runtime": ["runtime", *options, *frames]})
    seen = Observer()
    async with listening(plan.broker, "demo-observer", DEVICE, seen.take, ONLINE_S):
        try:
            children.start("agent")
            await _until(lambda: seen.online is True, ONLINE_S, "the agent does not appear")
            children.start("runtime")
            await _follow(children, seen, watch, plan.limit_s)
            if children.status("runtime") == 0:  # else nothing more is to come
                await _until(lambda: _settled(seen), SETTLE_S, "")
            children.stop("agent")
            await _until(lambda: seen.online is False, SETTLE_S, "")
        finally:
            children.close()
        watch(seen)
        checks = (*_message_checks(seen), *_output_checks(plan), _exit_check(children))
        return Summary(seen, checks, time.monotonic() - started)


async def _follow(children: Children, seen: Observer, watch: Watch, limit_s: float) -> None:
    """Watch until the runtime has come to its end.

    Raises:
        EdgetrtError: the pipeline does not start, or is not over in time.
    """
    deadline = time.monotonic() + limit_s
    while children.state("runtime") == "active":
        if (error := stuck(seen)) is not None:
            raise EdgetrtError(f"the pipeline does not start: {error}", "See its messages above.")
        if time.monotonic() > deadline:
            raise EdgetrtError(
                f"the demo is not over after {limit_s:.0f} s, with {seen.results} results received",
                "Ask for fewer frames: --frames N.",
            )
        watch(seen)
        await asyncio.sleep(0.1)


async def _until(condition: Callable[[], bool], seconds: float, complaint: str) -> None:
    """Wait for a condition; past the time, raise `complaint` or, when there is none, go on."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            if complaint:
                raise EdgetrtError(f"{complaint} within {seconds:.0f} s", "See its messages above.")
            return
        await asyncio.sleep(0.05)


def stuck(seen: Observer) -> str | None:
    """Why the pipeline has not given a single result after several starts; None while it may yet."""
    report = seen.health.pipelines[0] if seen.health and seen.health.pipelines else None
    if report is None or report.counters.done or report.counters.restarts < TRIES:
        return None
    return report.error


def _settled(seen: Observer) -> bool:
    """Say whether the pipeline's last word has arrived and nothing is under way."""
    health = seen.health
    return (
        health is not None
        and bool(health.pipelines)
        and health.pipelines[0].state in ("ended", "failed")
        and health.agent.pending == 0
        and health.agent.published <= seen.results
    )


def _write_config(plan: Plan) -> Path:
    """Write the two files that a person would write; JSON is YAML."""
    pipeline = {
        "name": PIPELINE,
        "model": str(plan.model),
        "source": plan.source,
        "backend": plan.backend,
        "sinks": [f"video:{plan.output / 'street.mp4'}", f"image:{plan.output / 'street.jpg'}"],
    }
    broker = {"host": plan.broker.host, "port": plan.broker.port, "spread_s": 0}
    device = {
        "device": DEVICE,
        "broker": broker,
        "publish": {"health_s": 1},
        "outbox": {"store": "memory"},
        "pipelines": ["street.yaml"],
    }
    (plan.folder / "street.yaml").write_text(json.dumps(pipeline))
    path = plan.folder / "agent.yaml"
    path.write_text(json.dumps(device))
    return path


def _message_checks(seen: Observer) -> tuple[Check, ...]:
    published = seen.health.agent.published if seen.health else 0
    report = seen.health.pipelines[0] if seen.health and seen.health.pipelines else None
    done = report.counters.done if report else 0
    return (
        Check("frames became results", done > 0, str(done)),
        Check(
            "every result was published", 0 < done == published, f"{published} published of {done}"
        ),
        Check(
            "every published result arrived",
            0 < seen.results == published,
            f"{seen.results} received of {published}",
        ),
        Check("objects were found", seen.objects > 0, f"{seen.mean_objects():.2f} per frame"),
        Check("messages keep the contract", seen.malformed == 0, f"{seen.malformed} malformed"),
        Check("health arrived", seen.healths > 0, f"{seen.healths} messages"),
        Check("the last status says offline", seen.online is False, f"online: {seen.online}"),
    )


def _output_checks(plan: Plan) -> tuple[Check, ...]:
    found = []
    for name in ("street.mp4", "street.jpg"):
        path = plan.output / name
        size = path.stat().st_size if path.exists() else 0
        found.append(Check(f"{name} was written", size > 0, f"{size} bytes"))
    return tuple(found)


def _exit_check(children: Children) -> Check:
    codes = {unit: children.status(unit) for unit in ("agent", "runtime")}
    return Check(
        "both processes ended well",
        all(code == 0 for code in codes.values()),
        ", ".join(f"{unit} {code}" for unit, code in codes.items()),
    )
