"""The runtime process: every pipeline in a thread, health to the agent, grants from it."""

from __future__ import annotations

import logging
import re
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from edgetrt import wire
from edgetrt.errors import EdgetrtError, MessageError
from edgetrt.link import Sender
from edgetrt.types import Grant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgetrt.link import Receiver
    from edgetrt.ports import Clock
    from edgetrt.runtime.network import Network
    from edgetrt.runtime.supervisor import Supervisor
    from edgetrt.types import PipelineHealth

log = logging.getLogger(__name__)

M = TypeVar("M", bound=wire.Struct)

HEALTH_S = 1.0
"""How often the runtime tells the agent how its pipelines do."""

LISTEN_S = 0.1
"""How long the main thread waits for a grant before it looks whether the pipelines are over."""

SWAP_S = 20.0
"""How long a pipeline may take to come to its next frame boundary."""

REPLY = re.compile(r"ask-[0-9]{1,10}-[0-9]{1,10}\.sock")
"""Names of sockets that are answered."""


def _unwatched(_: Sequence[PipelineHealth]) -> None:
    """Nobody looks at the progress."""


class Service:
    """Runs supervisors until all pipelines are over or `stop` is set.

    Args:
        supervisors: by pipeline name.
        send: takes a datagram for the agent; False when it did not leave.
        inbox: where the agent's grants arrive.
        reopen: loads what is deployed for a pipeline now.
        clock: time.
        frames: frames that each pipeline looks at before it ends; None = to the end of its source.
        progress: gets every pipeline's health as often as the agent does.
    """

    def __init__(
        self,
        supervisors: Mapping[str, Supervisor],
        send: Callable[[bytes], bool],
        inbox: Receiver,
        reopen: Callable[[str], Network],
        clock: Clock,
        frames: int | None = None,
        progress: Callable[[Sequence[PipelineHealth]], None] = _unwatched,
    ) -> None:
        self._supervisors = supervisors
        self._send = send
        self._inbox = inbox
        self._reopen = reopen
        self._clock = clock
        self._frames = frames
        self._progress = progress
        self.malformed = 0
        self._activating = threading.Lock()
        self._handlers: dict[type[wire.Struct], Callable[[Any], None]] = {}
        self.handle(wire.GrantMessage, self._take_grant)
        self.handle(wire.ActivateMessage, self._look_again)

    def handle(self, kind: type[M], handler: Callable[[M], None]) -> None:
        """Let `handler` take the messages of a kind.

        It runs between two looks at the inbox and must return at once: what takes longer belongs in a
        thread. An EdgetrtError of it counts as a message that is none of ours.
        """
        self._handlers[kind] = handler

    def run(self, stop: threading.Event) -> bool:
        """Work to the end; True when no pipeline failed.

        Raises:
            CudaError: the GPU is lost to this process; a new one must take over.
        """
        if not self._supervisors:
            log.warning("no pipeline is configured or deployed: there is nothing to run")
        threads = [
            threading.Thread(
                target=supervisor.run, args=(stop, self._frames), name=f"pipeline-{name}"
            )
            for name, supervisor in self._supervisors.items()
        ]
        for thread in threads:
            thread.start()
        due_ns = self._clock.monotonic_ns()
        try:
            while not stop.is_set() and any(thread.is_alive() for thread in threads):
                if self._clock.monotonic_ns() >= due_ns:
                    self._report()
                    due_ns = self._clock.monotonic_ns() + round(HEALTH_S * 1e9)
                self._listen()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            self._report()
        for supervisor in self._supervisors.values():
            if supervisor.fatal is not None:
                raise supervisor.fatal
        return all(s.meter.state != "failed" for s in self._supervisors.values())

    def _report(self) -> None:
        pipelines = [supervisor.meter.health() for supervisor in self._supervisors.values()]
        for health in pipelines:
            self._send(wire.encode(wire.pipeline_report(health)))
        self._progress(pipelines)

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
        supervisor = self._supervisors.get(message.pipeline)
        if supervisor is None:
            raise MessageError(f"grant for {message.pipeline!r}: no such pipeline runs here")
        supervisor.grant(Grant(message.rate_hz))

    def _look_again(self, message: wire.ActivateMessage) -> None:
        if not REPLY.fullmatch(message.reply):
            raise MessageError(f"reply {message.reply!r}: not the name of an asker's socket")
        # Loading takes seconds; grants and health must not wait for it.
        threading.Thread(target=self._activate, args=(message,), daemon=True).start()

    def _activate(self, message: wire.ActivateMessage) -> None:
        """Load the engine beside the one that serves, swap it in, and say so."""
        engine, error = "", ""
        supervisor = self._supervisors.get(message.pipeline)
        if supervisor is None:
            error = f"no pipeline {message.pipeline!r} runs here; it will after the next start"
        else:
            # One after the other: a slow load of an older engine must not come after a newer one's.
            with self._activating:
                try:
                    network = self._reopen(message.pipeline)
                    engine = network.fingerprint
                    if not supervisor.swap(network, SWAP_S):
                        error = f"the pipeline is {supervisor.meter.state} and took no other engine"
                except EdgetrtError as failure:
                    error = failure.message
        answer = wire.ActivatedMessage(pipeline=message.pipeline, engine=engine, error=error)
        with Sender(self._inbox.path.with_name(message.reply)) as asker:
            asker.send(wire.encode(answer))
