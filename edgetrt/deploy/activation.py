"""Putting a deployed engine to work, and the one before it back: records, and the running runtime told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgetrt import app
from edgetrt.asking import look_again

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
    answer = look_again(app.run_dir() / app.RUNTIME_SOCKET, name, SWAP_S)
    if answer.state != "taken":
        return "installed", answer.detail
    record = app.active().get(name)
    runs = "".join(one.engine for one in answer.pipelines if one.pipeline == name)
    if runs and record is not None and not record.current.fingerprint.startswith(runs):
        return "installed", "A release serves this pipeline; this engine does once none does."
    return "swapped", answer.detail
