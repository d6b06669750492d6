"""Datagrams of the runtime: results to the outbox, reports to health, the rest counted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from edgetrt import wire
from edgetrt.agent.health import LinkLosses, Pipelines
from edgetrt.agent.limiter import RateLimiter
from edgetrt.errors import MessageError

if TYPE_CHECKING:
    from edgetrt.agent.publisher import Publisher
    from edgetrt.link import Receiver

_log = logging.getLogger(__name__)

_BATCH = 64
"""Datagrams taken before the event loop turns to others."""


class Watcher(Protocol):
    """Looks at what comes from the runtime; must return at once."""

    def report(self, report: wire.PipelineReport) -> None:
        """A pipeline said how it does."""

    def result(self, result: wire.FrameResult) -> None:
        """A frame is done."""


class Intake:
    """The agent's end of the local link; never waits.

    Args:
        device: its name.
        receiver: the socket.
        publisher: where results go.
        result_hz: per pipeline at most; None = every result.
        monotonic_ns: clock of rates and ages.
        on_change: called when a pipeline is new or changed its state.
        watch: sees every report and every result; None = nobody looks.

    Attributes:
        pipelines: the latest reports.
        received: results taken.
        limited: results left out by `result_hz`.
    """

    def __init__(
        self,
        device: str,
        receiver: Receiver,
        publisher: Publisher,
        result_hz: float | None,
        monotonic_ns: Callable[[], int],
        on_change: Callable[[wire.PipelineReport], None],
        watch: Watcher | None = None,
    ) -> None:
        self.pipelines = Pipelines()
        self.received = 0
        self.limited = 0
        self._device = device
        self._receiver = receiver
        self._publisher = publisher
        self._result_hz = result_hz
        self._monotonic_ns = monotonic_ns
        self._on_change = on_change
        self._watch = watch
        self._losses = LinkLosses()
        self._limiters: dict[str, RateLimiter] = {}
        self._refused = 0

    @property
    def malformed(self) -> int:
        """Datagrams that were no message."""
        return self._refused + self._receiver.refused

    @property
    def link_dropped(self) -> int:
        """Results that the link did not take from the runtime."""
        return self._losses.total

    def read(self) -> None:
        """Take what is there, a batch at most."""
        for _ in range(_BATCH):
            refused = self._receiver.refused
            datagram = self._receiver.receive()
            if datagram is not None:
                self._take(datagram)
            elif self._receiver.refused == refused:
                return

    def _take(self, datagram: bytes) -> None:
        """Deal with one datagram of the runtime."""
        try:
            message = wire.decode_link(datagram)
            topic = wire.result(self._device, message.pipeline)
        except MessageError as error:
            return self._refuse(error.message)
        if isinstance(message, wire.FrameResult):
            return self._take_result(topic, message)
        if not isinstance(message, wire.PipelineReport):
            return self._refuse(f"{type(message).__name__}, which is not for the agent")
        if self._watch is not None:
            self._watch.report(message)
        if self.pipelines.put(message, self._monotonic_ns()):
            self._on_change(message)
        return None

    def _refuse(self, why: str) -> None:
        self._refused += 1
        if self._refused == 1:
            _log.warning("local link: refused a datagram: %s", why)

    def _take_result(self, topic: str, frame: wire.FrameResult) -> None:
        self.received += 1
        if self._watch is not None:
            self._watch.result(frame)
        self._losses.put(frame.pipeline, frame.unsent)
        limiter = self._limiters.get(frame.pipeline)
        if limiter is None:
            limiter = self._limiters[frame.pipeline] = RateLimiter(self._result_hz)
        if limiter.allow(self._monotonic_ns()):
            self._publisher.result(topic, frame)
        else:
            self.limited += 1
