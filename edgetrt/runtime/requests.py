"""What the agent asks of the runtime's pipelines: settings, and things to be done once."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgetrt import wire
from edgetrt.config import PipelineSettings
from edgetrt.errors import EdgetrtError, MessageError

if TYPE_CHECKING:
    from edgetrt.runtime.pool import PipelinePool
    from edgetrt.runtime.supervisor import Supervisor
    from edgetrt.types import Result

log = logging.getLogger(__name__)

RESULT_S = 10.0
"""How long a picture waits for the pipeline's next result."""

REOPEN_S = 10.0
"""How long a restart may take before it is answered with the state that it is in."""

LOAD_S = 100.0
"""What a measurement may take beside its measuring, most of it for loading the engine."""

_GLANCE_S = 0.05
_PRIORITY = 15
_PICTURES = "snapshot-*.jpg"


@dataclass(frozen=True)
class Means:
    """What answers are made with.

    Attributes:
        folder: where pictures are left for the agent.
        draw: a result as a JPEG of so many bytes at most.
        bench: the command that measures a pipeline's engine for so many seconds, and prints JSON.
        look: lets a pipeline that has given up begin anew.
    """

    folder: Path
    draw: Callable[[Result, int], bytes]
    bench: Callable[[str, float], Sequence[str]]
    look: Callable[[str], object]


class Requests:
    """Takes the agent's messages; what lasts is done in a thread, one of a kind at a time.

    Args:
        pool: the pipelines.
        answer: sends a message to the asker's socket of that name.
        means: what answers are made with.
    """

    def __init__(
        self, pool: PipelinePool, answer: Callable[[str, wire.Struct], None], means: Means
    ) -> None:
        self._pool = pool
        self._answer = answer
        self._means = means
        self._working: set[str] = set()
        self._lock = threading.Lock()
        self._kinds: dict[str, Callable[[Supervisor, wire.AskMessage], dict[str, Any]]] = {
            "snapshot": self._snapshot,
            "restart": self._restart,
            "bench": self._bench,
        }
        self._sweep()

    def settle(self, message: wire.SettingsMessage) -> None:
        """Put settings into force.

        Raises:
            MessageError: no such pipeline runs here.
        """
        supervisor = self._pool.get(message.pipeline)
        if supervisor is None:
            raise MessageError(f"settings for {message.pipeline!r}: no such pipeline runs here")
        try:
            settings = msgspec.convert(message.settings, PipelineSettings)
        except msgspec.ValidationError as error:  # an agent of another version
            health = supervisor.meter.health()
            supervisor.meter.settled(message.generation, health.settings, str(error))
            return
        supervisor.settle(message.generation, settings)

    def ask(self, message: wire.AskMessage) -> None:
        """Do something once and answer; returns at once."""
        with self._lock:
            busy = message.what in self._working
            if not busy:
                self._working.add(message.what)
        if busy:
            self._say(message, EdgetrtError(f"{message.what}: one is at work"))
            return
        threading.Thread(
            target=self._work, args=(message,), name=f"ask-{message.what}", daemon=True
        ).start()

    def _work(self, message: wire.AskMessage) -> None:
        try:
            self._say(message, self._do(message))
        except EdgetrtError as error:
            self._say(message, error)
        except Exception as error:  # the asker must hear of it, not wait
            log.exception("asked for a %s", message.what)
            self._say(message, EdgetrtError(f"internal error: {type(error).__name__}: {error}"))
        finally:
            with self._lock:
                self._working.discard(message.what)

    def _do(self, message: wire.AskMessage) -> dict[str, Any]:
        supervisor, work = self._pool.get(message.pipeline), self._kinds.get(message.what)
        if supervisor is None:
            here = ", ".join(sorted(self._pool.names())) or "none"
            raise MessageError(f"pipeline {message.pipeline!r}: not here", f"There is: {here}.")
        if work is None:
            raise MessageError(f"{message.what[:40]!r}: nothing that this runtime does")
        return work(supervisor, message)

    def _say(self, message: wire.AskMessage, outcome: dict[str, Any] | EdgetrtError) -> None:
        answer = wire.AnswerMessage(pipeline=message.pipeline, what=message.what)
        if isinstance(outcome, EdgetrtError):
            told = msgspec.structs.replace(answer, error=outcome.message, hint=outcome.hint)
        else:
            told = msgspec.structs.replace(answer, result=outcome)
        try:
            self._answer(message.reply, told)
        except EdgetrtError as error:
            log.warning("answering: %s", error.message)

    def _sweep(self) -> None:
        """Remove pictures that an asker did not wait for."""
        for left in self._means.folder.glob(_PICTURES):
            left.unlink(missing_ok=True)

    def _snapshot(self, supervisor: Supervisor, message: wire.AskMessage) -> dict[str, Any]:
        result = supervisor.tap.next(RESULT_S)
        if result is None:
            raise EdgetrtError(
                f"pipeline {message.pipeline!r}: no result within {RESULT_S:g} s, it is "
                f"{supervisor.meter.state}"
            )
        picture = self._means.draw(result, message.limit)
        self._sweep()
        path = self._means.folder / f"snapshot-{Path(message.reply).stem}.jpg"
        try:
            path.write_bytes(picture)
        except OSError as error:
            raise EdgetrtError(f"{path}: cannot be written: {error.strerror}") from error
        return {"file": path.name, "frame": result.frame.seq, "engine": result.engine}

    def _restart(self, supervisor: Supervisor, message: wire.AskMessage) -> dict[str, Any]:
        before = supervisor.opened
        if not supervisor.reopen():
            if supervisor.meter.state != "failed":
                raise EdgetrtError(f"pipeline {message.pipeline!r}: it has come to its end")
            self._means.look(message.pipeline)
        until = time.monotonic() + REOPEN_S
        while time.monotonic() < until:
            now = self._pool.get(message.pipeline) or supervisor
            state = now.meter.state
            anew = now is not supervisor or now.opened > before
            if state == "stopped" or (anew and state == "running"):
                break
            time.sleep(_GLANCE_S)
        health = (self._pool.get(message.pipeline) or supervisor).meter.health()
        return {"state": health.state, "engine": health.engine, "error": health.error}

    def _bench(self, supervisor: Supervisor, message: wire.AskMessage) -> dict[str, Any]:
        argv = self._means.bench(message.pipeline, message.seconds)
        status, out, err = run(argv, LOAD_S + message.seconds)
        try:
            measured: dict[str, Any] = json.loads(out)
        except ValueError as error:
            told = err.decode(errors="replace").strip()[-300:]
            raise EdgetrtError(f"the measurement ended with {status}: {told}") from error
        return measured


def run(argv: Sequence[str], limit_s: float) -> tuple[int, bytes, bytes]:
    """Run a program at low priority in a group of its own; it is killed at the limit.

    Raises:
        EdgetrtError: it cannot be started, or did not end in time.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise EdgetrtError(f"{argv[0]}: cannot be started: {error.strerror}") from error
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, _PRIORITY)
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise EdgetrtError(f"{argv[0]}: not done within {limit_s:g} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, out, err
