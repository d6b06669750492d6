"""What a device says of its updates, inside `reported`."""

from __future__ import annotations

import msgspec


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at: `value` against `limit`, as a person reads them."""

    name: str
    ok: bool
    value: str
    limit: str


class UpdateReport(msgspec.Struct, frozen=True, kw_only=True):
    """The update that is on its way, or the last one, and what serves.

    Attributes:
        serving: digest of the release that serves; empty = none.
        generation: of the assignment that the update came from; 0 = there was no update yet.
        target: name of its release in the repository.
        digest: of it.
        state: where it is, or was when it ended, as in `edgetrt update table`.
        code: how it ended; empty = it has not.
        reason: one word that a fleet can count.
        detail, hint: what happened and what to do, for a person.
        held: why it does not go on right now; while none is on its way, why the assignment that came
            cannot even be looked at.
        since: when it came into its state, in seconds since 1970.
        checks: of its verdict.
        log: the last lines, when it was taken back.
        newest: the highest generation that was ever signed for this device.
        refused: assignments that nobody entitled had signed, since the agent started, by code.
        older: assignments that were signed and overtaken, since then.
        fault: why no update can be worked on at all; empty = none.
    """

    serving: str = ""
    generation: int = 0
    target: str = ""
    digest: str = ""
    state: str = ""
    code: str = ""
    reason: str = ""
    detail: str = ""
    hint: str = ""
    held: str = ""
    since: float = 0.0
    checks: tuple[CheckReport, ...] = ()
    log: tuple[str, ...] = ()
    newest: int = 0
    refused: dict[str, int] = {}
    older: int = 0
    fault: str = ""
