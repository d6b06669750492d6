"""The table that every update follows, as data; `edgetrt update table` prints it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

MOST_STORES = 60
"""An update whose state was stored so often is going round in circles; one way through takes ten."""


class State(enum.Enum):
    """Where an update is. It is stored before the state's work begins, and may be entered again."""

    VERIFY = "VERIFY"
    FETCH = "FETCH"
    STAGE = "STAGE"
    BUILD = "BUILD"
    WAIT = "WAIT"
    ACTIVATE = "ACTIVATE"
    PROVE = "PROVE"
    COMMIT = "COMMIT"
    ROLLBACK = "ROLLBACK"


class Code(enum.Enum):
    """How an update ended."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    TIMED_OUT = "TIMED_OUT"
    CANCELED = "CANCELED"
    ROLLED_BACK = "ROLLED_BACK"


Next = State | Code


@dataclass(frozen=True)
class Row:
    """One state.

    Attributes:
        state: its name.
        does: its work, in words.
        then: what follows when it is done.
        refused: when a signature, a digest or this device says no.
        failed: at any other error; the state itself = it is tried again.
        late: when its time is over.
        deadline_s: how long it may take, attempts and restarts included.
        waits: a repository that is away is waited for.
        cancel: whether it can still be called off: nothing was switched.
    """

    state: State
    does: str
    then: Next
    refused: Next
    failed: Next
    late: Next
    deadline_s: float
    waits: bool = False
    cancel: bool = True


_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0

TABLE = (
    Row(
        State.VERIFY,
        "check who signed it, for which device, how old; serves already: SUCCEEDED",
        State.FETCH,
        Code.REJECTED,
        Code.FAILED,
        Code.TIMED_OUT,
        _DAY,
        waits=True,
    ),
    Row(
        State.FETCH,
        "bring the release here, checked on the way",
        State.STAGE,
        Code.REJECTED,
        Code.FAILED,
        Code.TIMED_OUT,
        7 * _DAY,
        waits=True,
    ),
    Row(
        State.STAGE,
        "unpack it beside the one that serves",
        State.BUILD,
        Code.REJECTED,
        Code.FAILED,
        Code.TIMED_OUT,
        _HOUR,
    ),
    Row(
        State.BUILD,
        "make its engines while the old ones serve",
        State.WAIT,
        Code.REJECTED,
        Code.FAILED,
        Code.TIMED_OUT,
        6 * _HOUR,
    ),
    Row(
        State.WAIT,
        "hold for the window, the application's lock, a person, heat",
        State.ACTIVATE,
        Code.REJECTED,
        Code.FAILED,
        Code.TIMED_OUT,
        7 * _DAY,
    ),
    Row(
        State.ACTIVATE,
        "switch to it, between two frames",
        State.PROVE,
        State.ROLLBACK,
        State.ROLLBACK,
        State.ROLLBACK,
        5 * _MINUTE,
        cancel=False,
    ),
    Row(
        State.PROVE,
        "watch it against what it promised and what was before",
        State.COMMIT,
        State.ROLLBACK,
        State.ROLLBACK,
        State.ROLLBACK,
        26 * _HOUR,
        cancel=False,
    ),
    Row(
        State.COMMIT,
        "keep it, and the one before it; remove older ones",
        Code.SUCCEEDED,
        State.ROLLBACK,
        State.ROLLBACK,
        State.ROLLBACK,
        10 * _MINUTE,
        cancel=False,
    ),
    Row(
        State.ROLLBACK,
        "switch back to the one before",
        Code.ROLLED_BACK,
        State.ROLLBACK,
        State.ROLLBACK,
        Code.FAILED,
        _HOUR,
        cancel=False,
    ),
)
ROWS = {row.state: row for row in TABLE}
