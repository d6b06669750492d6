"""The guard of last resort: puts the release before back when the runtime keeps dying, without the agent.

It runs when systemd has given the runtime up. It notes which release it takes back before it does, so that
a power cut in between leaves a note that it, or the machine of updates, can act on.
"""

from __future__ import annotations

from pathlib import Path

from edgetrt.update import durable
from edgetrt.update.layout import Layout
from edgetrt.update.record import FileStore, Memory
from edgetrt.update.requests import MARK, Requests
from edgetrt.update.states import State

_SWITCHED = (State.ACTIVATE, State.PROVE, State.COMMIT, State.ROLLBACK)


def take_back(root: Path, trial_only: bool = False) -> str:
    """Let `current` lead to the release before again; each is taken back once.

    Args:
        root: folder of updates.
        trial_only: leave a release alone that was proven.

    Returns:
        Digest of the release that was taken back, by the agent or now; empty when there is none to go
        back from.

    Raises:
        UpdateError: what was before cannot be read.
    """
    layout, noted, memory = Layout(root), Requests(root).taken_back(), FileStore(root).load()
    serves = layout.current()
    if (left := _left(memory, serves)) and noted != left:
        durable.replace(root / MARK, left.encode("ascii"))
        return left
    before = _before(memory, serves, trial_only)
    if not serves or before is None or noted not in ("", serves):
        return ""
    if before and not layout.has(before):
        return ""
    durable.replace(root / MARK, serves.encode("ascii"))
    layout.switch(before)
    return serves


def _left(memory: Memory, serves: str) -> str:
    """The release that the agent switches back from, when only the runtime has yet to hear of it."""
    record = memory.record
    if record is None or record.code is not None or record.state is not State.ROLLBACK:
        return ""
    return record.digest if serves == record.previous else ""


def _before(memory: Memory, serves: str, trial_only: bool) -> str | None:
    """What served before, empty when nothing did; None = there is no way back."""
    record = memory.record
    if record is not None and record.code is None and record.state in _SWITCHED:
        return record.previous if record.digest == serves else None
    return None if trial_only else memory.previous or None
