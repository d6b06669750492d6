"""Putting a deployed engine to work, and the one before it back: records, and the running runtime told."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edgetrt import app, wire
from edgetrt.errors import MessageError, TransportError
from edgetrt.link import Receiver, Sender

if TYPE_CHECKING:
    from edgetrt.engine.active import Record

SWAP_S = 60.0
"""How long a running runtime may take to load the engine and swap it in."""


def rollback(name: str) -> tuple[Record, str, str]:
    """Bring the engine before back, and tell a running runtime.

    Returns:
        The record, and what became of it as in `Deployment.state` and `.detail`.

    Raises:
        ConfigError: there is none to go back to.
    """
    record = app.active().rollback(name)
    return (record, *tell_runtime(name))


def tell_runtime(name: str) -> tuple[str, str]:
    """Let a running runtime swap the engine in; it is for the next start where none runs."""
    sockets = app.run_dir()
    asleep = "installed", "No runtime runs here now; the next start takes it."
    if not (sockets / app.RUNTIME_SOCKET).exists():
        return asleep
    asker = f"deploy-{os.getpid()}.sock"
    message = wire.ActivateMessage(pipeline=name, reply=asker)
    try:
        with Receiver(sockets / asker) as inbox, Sender(sockets / app.RUNTIME_SOCKET) as runtime:
            if not runtime.send(wire.encode(message)):
                return asleep
            answer = inbox.receive(SWAP_S)
    except TransportError as error:
        return (
            "installed",
            f"The runtime cannot be asked: {error.message}. Its next start takes it.",
        )
    if answer is None:
        return "installed", f"The runtime did not answer within {SWAP_S:.0f} s; see its log."
    try:
        told = wire.decode_link(answer)
    except MessageError as error:
        return "installed", error.message
    if not isinstance(told, wire.ActivatedMessage) or told.error:
        return "installed", getattr(told, "error", "the runtime answered something else")
    return "swapped", "The running pipeline took it between two frames."
