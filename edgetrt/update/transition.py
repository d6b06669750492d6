"""What follows from what, pure: the table, one outcome, the next state."""

from __future__ import annotations

from msgspec.structs import replace

from edgetrt.errors import (
    DigestError,
    EdgetrtError,
    IncompatibleError,
    TrustError,
    UnreachableError,
    UpdateError,
)
from edgetrt.update.clock import BUILT
from edgetrt.update.record import MOST_HISTORY, Memory, Offer, Record
from edgetrt.update.states import MOST_STORES, ROWS, Code, Next, Row, State

_REFUSALS = (TrustError, IncompatibleError, DigestError)
_CRASHED = (
    "crashed",
    "the runtime kept dying with it, and the guard took it back",
    "See `journalctl -u edgetrt-runtime`, around the time of the switch.",
)
_LAST_STORES = 20
"""How many more stores a rollback gets, once the others are used up."""


def begin(memory: Memory, offer: Offer, generation: int, digest: str, now_s: float) -> Memory:
    """Start with an offer; what was there is history."""
    record = Record(
        offer=offer,
        state=State.VERIFY,
        generation=generation,
        digest=digest,
        begun_at=now_s,
        entered_at=now_s,
        stores=1,
    )
    old = () if memory.record is None else (memory.record,)
    history = (*old, *memory.history)[:MOST_HISTORY]
    return replace(memory, record=record, waiting=None, history=history)


def done(memory: Memory, record: Record, now_s: float) -> Memory:
    """A step is done."""
    if record.state is State.VERIFY:
        settled = max(memory.settled, record.generation)
        memory = replace(memory, floor=record.generation, seen=record.digest, settled=settled)
        if record.serves:
            return enter(memory, record, Code.SUCCEEDED, now_s)
    return enter(memory, record, ROWS[record.state].then, now_s)


def refused(row: Row, error: EdgetrtError) -> Next | None:
    """Where an error leads; None = the same step is tried again."""
    if isinstance(error, UnreachableError) and row.waits:
        return None
    to = row.refused if isinstance(error, _REFUSALS) else row.failed
    return None if to is row.state else to


def explained(record: Record, error: EdgetrtError) -> Record:
    """An update with the first thing that went wrong; what goes wrong on the way back is no news."""
    if record.reason:
        return record
    code = error.code if isinstance(error, UpdateError) else ""
    return replace(
        record,
        reason=code or type(error).__name__.removesuffix("Error").lower(),
        detail=error.message,
        hint=error.hint,
    )


def dated(record: Record, now_s: float) -> Record:
    """Begin a state's time again when it was entered before the clock was set at all."""
    if record.entered_at < BUILT.timestamp() <= now_s:
        return replace(record, begun_at=max(record.begun_at, now_s), entered_at=now_s)
    return record


def late(memory: Memory, record: Record, now_s: float) -> Memory | None:
    """Leave a state whose time is over; None = it is not."""
    row = ROWS[record.state]
    if now_s - record.entered_at <= row.deadline_s:
        return None
    held = f": {record.held}" if record.held else ""
    error = UpdateError(
        f"{row.state.value}: not done within {row.deadline_s:.0f} s{held}",
        "Assign the release again when the cause is gone.",
        "deadline",
    )
    return enter(memory, explained(record, error), row.late, now_s)


def circling(memory: Memory, record: Record, now_s: float) -> Memory | None:
    """Leave a state that was entered over and over; None = it was not."""
    row = ROWS[record.state]
    back = record.state is State.ROLLBACK
    if record.stores <= MOST_STORES + (_LAST_STORES if back else 0):
        return None
    error = UpdateError(
        f"{row.state.value}: entered again and again, {record.stores} times in this update",
        "Look why the device or its services restart; then assign the release again.",
        "loop",
    )
    to: Next = Code.FAILED if row.cancel or back else State.ROLLBACK
    return enter(memory, explained(record, error), to, now_s)


def canceled(memory: Memory, record: Record, reason: str, detail: str, now_s: float) -> Memory:
    """Call an update off before anything was switched."""
    record = replace(record, reason=reason, detail=detail, hint="")
    return enter(memory, record, Code.CANCELED, now_s)


def back(memory: Memory, digest: str, now_s: float) -> Memory:
    """Take the release that serves back, because a person wants it."""
    return _again(memory, digest, now_s, "by-hand", "a person took it back", "")


def crashed(memory: Memory, digest: str, now_s: float) -> Memory:
    """End the update to a release that the guard has taken back; the way back is gone once more."""
    record = memory.record
    if record is None or record.digest != digest:
        if record is not None and record.code is None:
            return _noted(memory, digest)
        return _again(memory, digest, now_s, *_CRASHED)
    if record.code is None and not ROWS[record.state].cancel:
        if record.state is State.ROLLBACK:
            return memory
        reason, detail, hint = _CRASHED
        record = replace(record, reason=reason, detail=detail, hint=hint)
        return enter(memory, record, State.ROLLBACK, now_s)
    if record.code is Code.SUCCEEDED:
        return _again(memory, digest, now_s, *_CRASHED)
    return memory


def _noted(memory: Memory, digest: str) -> Memory:
    """Say of an earlier update that it was taken back, while another is on its way."""
    reason, detail, hint = _CRASHED
    history = tuple(
        replace(old, code=Code.ROLLED_BACK, reason=reason, detail=detail, hint=hint)
        if old.digest == digest and old.code is Code.SUCCEEDED
        else old
        for old in memory.history
    )
    return replace(memory, previous="", history=history)


def _again(
    memory: Memory, digest: str, now_s: float, reason: str, detail: str, hint: str
) -> Memory:
    """Go back from a release that served already."""
    known = of(memory, digest) or Record(
        offer=Offer(envelope=""),
        state=State.ROLLBACK,
        generation=memory.floor,
        digest=digest,
        begun_at=now_s,
        entered_at=now_s,
    )
    record = replace(
        known,
        code=None,
        by_hand=reason == "by-hand",
        previous=memory.previous,
        reason=reason,
        detail=detail,
        hint=hint,
        verdict=None,
        begun_at=now_s,
        stores=0,
    )
    old = () if memory.record is None else (memory.record,)
    history = (*old, *memory.history)[:MOST_HISTORY]
    memory = replace(memory, previous="", history=history)
    return enter(memory, record, State.ROLLBACK, now_s)


def of(memory: Memory, digest: str) -> Record | None:
    """The last verified update to a release, as far as it is remembered."""
    for record in (memory.record, *memory.history):
        if record is not None and record.digest == digest and record.target:
            return record
    return None


def enter(memory: Memory, record: Record, to: Next, now_s: float) -> Memory:
    """Go into a state, or end."""
    record = replace(record, held="", stores=record.stores + 1)
    if isinstance(to, State):
        return replace(memory, record=replace(record, state=to, entered_at=now_s))
    if to is Code.SUCCEEDED and not record.serves:
        memory = replace(memory, previous=record.previous)
    return replace(memory, record=replace(record, code=to))
