"""The runtime process: every pipeline in a thread, health to the agent, grants from it."""

from __future__ import annotations

import logging
import re
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from edgetrt import wire
from edgetrt.errors import EdgetrtError, MessageError
from edgetrt.link import Sender
from edgetrt.memory import resident_bytes
from edgetrt.types import Grant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgetrt.link import Receiver
    from edgetrt.ports import Clock
    from edgetrt.runtime.pool import PipelinePool
    from edgetrt.runtime.running import Job
    from edgetrt.types import PipelineHealth

log = logging.getLogger(__name__)

M = TypeVar("M", bound=wire.Struct)

HEALTH_S = 1.0
"""How often the runtime tells the agent how its pipelines do."""

LISTEN_S = 0.1
"""How long the main thread waits for a grant before it looks whether the pipelines are over."""

ANSWER_S = 2.0
"""How long the end waits for who asked to be answered."""

REPLY = re.compile(r"ask-[0-9]{1,10}-[0-9]{1,10}\.sock")
"""Names of sockets that are answered."""


def _unwatched(_: Sequence[PipelineHealth], __: Mapping[str, float]) -> None:
    """Nobody looks at the progress."""


class Service:
    """Runs the pipelines until all are over or `stop` is set.

    Args:
        pool: the pipelines.
        jobs: what they should do now, by name; asked at the start and at each look.
        send: takes a datagram for the agent; False when it did not leave.
        inbox: where the agent and commands send.
        clock: time.
        progress: gets every pipeline's health and granted rates as often as the agent does.
    """

    def __init__(
        self,
        pool: PipelinePool,
        jobs: Callable[[], Mapping[str, Job]],
        send: Callable[[bytes], bool],
        inbox: Receiver,
        clock: Clock,
        progress: Callable[[Sequence[PipelineHealth], Mapping[str, float]], None] = _unwatched,
    ) -> None:
        self.pool = pool
        self._jobs = jobs
        self._send = send
        self._inbox = inbox
        self._clock = clock
        self._progress = progress
        self._began_ns = clock.monotonic_ns()
        self.malformed = 0
        self._looks: list[threading.Thread] = []
        self._handlers: dict[type[wire.Struct], Callable[[Any], None]] = {}
        self.handle(wire.GrantMessage, self._take_grant)
        self.handle(wire.ActivateMessage, self._take_look)

    def handle(self, kind: type[M], handler: Callable[[M], None]) -> None:
        """Let `handler` take the messages of a kind.

        It runs between two looks at the inbox and must return at once: what takes longer belongs in a
        thread. An EdgetrtError of it counts as a message that is none of ours.
        """
        self._handlers[kind] = handler

    def answer(self, name: str, message: wire.Struct) -> None:
        """Send an answer to the asker's socket of that name.

        Raises:
            MessageError: it is not the name of one.
        """
        if not REPLY.fullmatch(name):
            raise MessageError(f"reply {name!r}: not the name of an asker's socket")
        with Sender(self._inbox.path.with_name(name)) as asker:
            asker.send(wire.encode(message))

    def run(self, stop: threading.Event) -> bool:
        """Work to the end; True when no pipeline failed.

        Raises:
            EdgetrtError: what shall run cannot be told.
            CudaError: the GPU is lost to this process; a new one must take over.
        """
        jobs = self._jobs()
        if not jobs:
            log.warning("no pipeline is configured or deployed: there is nothing to run")
        self.pool.begin(jobs)
        due_ns = self._clock.monotonic_ns()
        try:
            while not stop.is_set() and self.pool.fatal is None and self._needed():
                if self._clock.monotonic_ns() >= due_ns:
                    self._report()
                    due_ns = self._clock.monotonic_ns() + round(HEALTH_S * 1e9)
                self._listen()
        finally:
            well = self.pool.close()
            for thread in self._looks:
                thread.join(ANSWER_S)
            self._report()
        if self.pool.fatal is not None:
            raise self.pool.fatal
        return well

    def _needed(self) -> bool:
        """Whether a pipeline works, or may soon: one that was told to run nothing waits for more."""
        looking = any(thread.is_alive() for thread in self._looks)
        return looking or self.pool.working() or bool(self._looks and not self.pool.names())

    def _report(self) -> None:
        pipelines = self.pool.health()
        rss_bytes = resident_bytes()
        for health in pipelines:
            self._send(wire.encode(wire.pipeline_report(health, rss_bytes, self._began_ns)))
        self._progress(pipelines, self.pool.rates_hz())

    def _listen(self) -> None:
        """Wait a moment for a message and let its handler take it; what nobody takes is counted."""
        datagram = self._inbox.receive(LISTEN_S)
        if datagram is None:
            return
        try:
            message = wire.decode_link(datagram)
            handler = self._handlers.get(type(message))
            if handler is None:
                raise MessageError(f"{type(message).__name__}: nothing here takes it")
            handler(message)
        except EdgetrtError as error:
            self.malformed += 1
            log.warning("from the link: %s", error.message)

    def _take_grant(self, message: wire.GrantMessage) -> None:
        supervisor = self.pool.get(message.pipeline)
        if supervisor is None:
            raise MessageError(f"grant for {message.pipeline!r}: no such pipeline runs here")
        supervisor.limit(Grant(message.rate_hz))

    def _take_look(self, message: wire.ActivateMessage) -> None:
        if not REPLY.fullmatch(message.reply):
            raise MessageError(f"reply {message.reply!r}: not the name of an asker's socket")
        # Loading takes seconds; grants and health must not wait for it.
        thread = threading.Thread(target=self._look, args=(message,), name="look", daemon=True)
        self._looks = [thread, *(one for one in self._looks if one.is_alive())]
        thread.start()

    def _look(self, message: wire.ActivateMessage) -> None:
        """Do what should be done now, and say what became of it."""
        try:
            taken = self.pool.apply(self._jobs, message.pipeline, message.shadow)
            error = "; ".join(f"{one.pipeline}: {one.error}" for one in taken if one.error)
            if message.pipeline and not taken:
                error = f"no pipeline {message.pipeline!r} should run here"
        except EdgetrtError as failure:
            taken, error = [], failure.message
        except Exception as failure:  # the asker must hear of it, not wait
            log.exception("looking again")
            taken, error = [], f"internal error: {type(failure).__name__}: {failure}"
        engine = taken[0].engine if message.pipeline and taken else ""
        self.answer(
            message.reply,
            wire.ActivatedMessage(
                pipeline=message.pipeline, engine=engine, error=error, pipelines=tuple(taken)
            ),
        )
