"""What systemd is told: that we are ready, how it goes, and that the work moves.

The protocol is sd_notify(3): a datagram of `KEY=value` lines to the socket named in `NOTIFY_SOCKET`.
Without systemd nothing is sent and nothing is different.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgetrt.ports import Clock
    from edgetrt.types import PipelineHealth

log = logging.getLogger(__name__)

BEATS = 3
"""How often in its watchdog time a process without frames of its own says that it lives."""

START_S = 300.0
"""How long a pipeline may take to load its network before it counts as standing still."""

SLOW_FRAMES = 3.0
"""Periods of its granted rate that a pipeline may be silent, when those outlast the watchdog."""

EXTEND_US = 30_000_000
"""What a start that waits for a camera asks for each time, in microseconds."""

_OVER = ("ended", "failed", "backoff", "stopped")
"""States in which a pipeline's thread waits or is gone on purpose."""


class Notifier:
    """The way to the service manager.

    Args:
        environment: where systemd says what it wants; a process of ours gets `os.environ`.

    Attributes:
        watchdog_s: systemd kills this process when it hears nothing for as long; None = never.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self.watchdog_s = _watchdog_s(environment)

    def ready(self, status: str) -> None:
        """Say that the unit is up; what comes after it in the boot may start."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(f"STATUS={_line(text)}")

    def alive(self) -> None:
        """Feed the watchdog."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def extend_start(self) -> None:
        """Ask for more time before the start counts as failed."""
        self._send(f"EXTEND_TIMEOUT_USEC={EXTEND_US}")

    def stopping(self) -> None:
        """Say that the end is on purpose."""
        self._send("STOPPING=1")

    def _send(self, lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.sendto(lines.encode(), self._address)
        except OSError as error:  # a manager that restarts just now; the next line gets through
            log.debug("systemd did not take %r: %s", lines, error)


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """What the unit's `WatchdogSec=` says, when it is meant for this process (sd_watchdog_enabled(3))."""
    wanted, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not (wanted.isascii() and wanted.isdigit() and int(wanted)) or pid not in (
        "",
        str(os.getpid()),
    ):
        return None
    return int(wanted) / 1e6


def _line(text: str) -> str:
    return " ".join(text.split())


async def keep_alive(notifier: Notifier) -> None:
    """Feed the watchdog from the event loop: a loop that hangs starves it. Runs until cancelled."""
    while notifier.watchdog_s is not None:
        notifier.alive()
        await asyncio.sleep(notifier.watchdog_s / BEATS)


class Progress:
    """Turns what the pipelines did into READY, STATUS and WATCHDOG.

    READY comes with the first result of any pipeline. The watchdog is fed each time every pipeline
    has done something since it was fed last: one that stands still starves it, one that takes ten
    seconds a frame under a watchdog of thirty does not. A pipeline that waits for its camera to come
    back does what it should, and so does one whose rate is lower than the watchdog's. Pipelines may
    come and go between two looks.

    Args:
        notifier: who is told.
        clock: time.
    """

    def __init__(self, notifier: Notifier, clock: Clock) -> None:
        self._notifier = notifier
        self._clock = clock
        self._seen: dict[str, tuple[object, ...]] = {}
        self._moved_ns: dict[str, int] = {}
        self._pending: set[str] = set()
        self._status = ""
        self.ready = False

    def __call__(self, pipelines: Sequence[PipelineHealth], rates_hz: Mapping[str, float]) -> None:
        """Look at the pipelines and tell systemd; to be called about once a second.

        Args:
            pipelines: all that are here now.
            rates_hz: what each may do now, by name, where that is limited.
        """
        now_ns = self._clock.monotonic_ns()
        self._forget({health.pipeline for health in pipelines})
        for health in pipelines:
            self._look(health, rates_hz.get(health.pipeline), now_ns)
        self._tell(pipelines)
        if not self._pending:
            self._notifier.alive()
            self._pending = {health.pipeline for health in pipelines}

    def _forget(self, here: set[str]) -> None:
        """Expect nothing more of pipelines that are gone."""
        for name in set(self._seen) - here:
            del self._seen[name], self._moved_ns[name]
        self._pending &= here

    def _look(self, health: PipelineHealth, rate_hz: float | None, now_ns: int) -> None:
        name, counters = health.pipeline, health.counters
        did = (health.state, counters.done, counters.refused, counters.restarts)
        if self._seen.get(name) != did:
            self._seen[name] = did
            self._moved_ns[name] = now_ns
            self._pending.discard(name)
        elif (now_ns - self._moved_ns[name]) / 1e9 < _patience_s(health, rate_hz):
            self._pending.discard(name)

    def _tell(self, pipelines: Sequence[PipelineHealth]) -> None:
        status = "; ".join(map(_describe, pipelines)) or "no pipeline is configured"
        idle = all(health.state == "stopped" for health in pipelines)
        if not self.ready and (idle or any(health.counters.done for health in pipelines)):
            self.ready = True
            self._notifier.ready(status)
        elif status != self._status:
            self._notifier.status(status)
        if not self.ready and any(health.state == "backoff" for health in pipelines):
            self._notifier.extend_start()
        self._status = status


def _patience_s(health: PipelineHealth, rate_hz: float | None) -> float:
    """How long doing nothing is what this pipeline should do now."""
    if health.state in _OVER:
        return float("inf")
    if health.state == "starting":
        return START_S
    return SLOW_FRAMES / rate_hz if rate_hz else 0.0


def _describe(health: PipelineHealth) -> str:
    if health.state == "running":
        return f"{health.pipeline} {health.fps:.1f}/s"
    return f"{health.pipeline} {health.state}" + (f": {health.error}" if health.error else "")
