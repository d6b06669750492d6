"""Asking the running runtime: one datagram there, one back; it imports no arrays, so the agent may."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgetrt import wire
from edgetrt.errors import MessageError, TransportError
from edgetrt.link import Receiver, Sender

LOOK_S = 240.0
"""How long a runtime may take to load every network anew; an update allows the switch 300 s."""

_GLANCE_S = 1.0
"""How often somebody who waits looks whether the runtime is still the one that was asked."""

_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Answer:
    """What became of asking the runtime to look again.

    Attributes:
        state: `taken`: it runs what should run. `installed`: none runs here; the next start takes it.
            `refused`: a pipeline did not take it and does what it did before. `silent`: no answer came.
        detail: in words.
        pipelines: what became of each.
    """

    state: Literal["taken", "installed", "refused", "silent"]
    detail: str
    pipelines: tuple[wire.Taken, ...] = ()


def look_again(
    runtime: Path, pipeline: str = "", timeout_s: float = LOOK_S, shadow: int = 0
) -> Answer:
    """Let the running runtime look again what should run; returns when it does.

    A runtime that ends over it and starts again is asked again: it began with what should run.

    Args:
        runtime: its socket.
        pipeline: this one only; empty = everything.
        timeout_s: how long to wait for the answer.
        shadow: how many live frames new networks look at beside the old ones, before they take over;
            `Taken.agreement` tells how far both agreed.
    """

    def question(reply: str) -> wire.Struct:
        return wire.ActivateMessage(pipeline=pipeline, reply=reply, shadow=shadow)

    try:
        told = ask(runtime, question, timeout_s)
    except MessageError as error:
        return Answer("silent", error.message)
    except TransportError as error:
        return Answer("installed", f"Not asked: {error.message}; the next start takes it.")
    if told is None:
        return Answer(
            "silent", f"The runtime did not answer within {timeout_s:.0f} s; see its log."
        )
    if not isinstance(told, wire.ActivatedMessage):
        return Answer("silent", "The runtime answered something else.")
    if told.error:
        return Answer("refused", told.error, told.pipelines)
    return Answer("taken", "The running pipeline took it between two frames.", told.pipelines)


def reply_name() -> str:
    """Name of a socket to be answered on, never the same twice in a process."""
    return f"ask-{os.getpid()}-{next(_NUMBERS)}.sock"


def ask(
    runtime: Path, question: Callable[[str], wire.Struct], timeout_s: float
) -> wire.LinkMessage | None:
    """Ask a runtime and wait for its answer; None when none comes in time.

    Args:
        runtime: its socket.
        question: made with the name of the socket that the answer goes to.
        timeout_s: how long to wait.

    Raises:
        MessageError: the answer is none.
        TransportError: none runs, or there is no way to be answered.
    """
    _sweep(runtime.parent)
    reply = reply_name()
    deadline = time.monotonic() + timeout_s
    asked: tuple[int, int] | None = None
    with Receiver(runtime.with_name(reply)) as inbox, Sender(runtime) as out:
        while (left_s := deadline - time.monotonic()) > 0:
            now = _identity(runtime)
            if now is not None and now != asked and out.send(wire.encode(question(reply))):
                asked = now
            elif asked is None:
                raise TransportError("no runtime runs here now")
            answer = inbox.receive(min(_GLANCE_S, left_s))
            if answer is not None:
                return wire.decode_link(answer)
    return None


def _sweep(folder: Path) -> None:
    """Remove the sockets of askers that were killed while they waited."""
    for left in folder.glob("ask-*-*.sock"):
        asker = left.name.split("-")[1]
        try:
            os.kill(int(asker), 0)
        except ProcessLookupError:
            left.unlink(missing_ok=True)
        except (ValueError, OSError):  # not of that form; or it lives, and is another user's
            continue


def _identity(path: Path) -> tuple[int, int] | None:
    """Tells one socket of a name from the next."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns
