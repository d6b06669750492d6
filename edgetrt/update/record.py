"""What is remembered of updates: one JSON document, replaced as a whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Protocol

import msgspec

from edgetrt.errors import UpdateError
from edgetrt.update import durable
from edgetrt.update.desired import Policy
from edgetrt.update.states import Code, State

MOST_HISTORY = 10
_ROOM = 256 * 1024
_MODE = 0o640
"""People of the service's group may look how an update goes."""

Digest = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]
"""sha256 of a release; empty = none. Root acts on what is read here: no other words get through."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at: `value` against `limit`, as a person reads them."""

    name: str
    ok: bool
    value: str
    limit: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Why a release was kept or taken back, with the last lines of the log."""

    checks: tuple[Check, ...] = ()
    log: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return all(check.ok for check in self.checks)


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """How a pipeline ran before an update touched anything, to compare its successor with.

    Attributes:
        fps: results per second.
        p99_ms: 99th percentile of capture to result; None when no frame was timed.
        frames: results that these rest on.
        sated: its source, or its rate, gave no more.
    """

    fps: float
    p99_ms: float | None = None
    frames: int = 0
    sated: bool = False


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A `desired` as it came, and the bundle that came with it; empty = from the repository."""

    envelope: str
    bundle: str = ""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One update. Times are seconds since 1970, by the device's clock.

    Attributes:
        offer: what asked for it.
        state: where it is, or was when it ended.
        generation: of the assignment; to be trusted behind VERIFY only, like `digest` and `target`.
        digest: sha256 of the release, which is also its name on the disk.
        target: its name in the repository.
        path: where the repository keeps it.
        length: its bytes.
        unpacked: its bytes when unpacked.
        policy: when it may be switched to.
        previous: digest of what served before the switch; empty = nothing did.
        serves: it served already when it was asked for.
        by_hand: a person asked for the rollback.
        code: how it ended; None = it has not.
        reason: one word that a fleet can count.
        detail: what happened, for a person.
        hint: what to do about it.
        held: why it does not go on right now.
        verdict: of BUILD's golden inputs when they refused it, else of PROVE.
        before: how the pipelines ran on the release before, noted before the build began.
        begun_at: when it was asked for.
        entered_at: when it came into this state.
        stores: how often it was stored.
    """

    offer: Offer
    state: State
    generation: int
    digest: Digest
    target: str = ""
    path: str = ""
    length: int = 0
    unpacked: int = 0
    policy: Policy = Policy()
    previous: Digest = ""
    serves: bool = False
    by_hand: bool = False
    code: Code | None = None
    reason: str = ""
    detail: str = ""
    hint: str = ""
    held: str = ""
    verdict: Verdict | None = None
    before: dict[str, Figures] = {}
    begun_at: float
    entered_at: float
    stores: int = 0


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The document.

    Attributes:
        floor: the highest generation whose release was ever verified; lower ones are ignored.
        seen: digest of the release that it meant.
        settled: the highest generation that was ever signed by a known key, with settings only or not;
            lower ones are ignored.
        previous: digest of the release before the one that serves, kept for a rollback by hand.
        record: the update that is on its way, or the last one.
        waiting: the next one, when it came while another was on its way.
        history: those before, the newest first.
    """

    v: int = 1
    floor: int = 0
    seen: Digest = ""
    settled: int = 0
    previous: Digest = ""
    record: Record | None = None
    waiting: Offer | None = None
    history: tuple[Record, ...] = ()


_DECODER = msgspec.json.Decoder(Memory)


class Store(Protocol):
    """Where the document is."""

    def load(self) -> Memory:
        """The document; a new one when there is none."""

    def save(self, memory: Memory) -> None:
        """Replace it; it is on the disk when this returns."""


class FileStore:
    """A JSON file, with some room set aside for the day the disk is full.

    Args:
        folder: holds it, ours alone.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._room = folder / "update.json", folder / "room"

    def load(self) -> Memory:
        """As `Store.load`.

        Raises:
            UpdateError: it is damaged. It holds which generations were seen, so it is not replaced by
                itself.
        """
        try:
            with durable.as_owner(self._path.parent):
                memory = _DECODER.decode(self._path.read_bytes())
        except FileNotFoundError:
            return Memory()
        except (OSError, msgspec.MsgspecError) as error:
            raise _unusable(self._path, error) from error
        if memory.v != 1:
            raise _unusable(self._path, f"version {memory.v}, expected 1")
        return memory

    def save(self, memory: Memory) -> None:
        """As `Store.save`; a full disk gives up the room set aside.

        Raises:
            UpdateError: the disk takes nothing at all.
        """
        data = msgspec.json.format(msgspec.json.encode(memory), indent=2)
        try:
            durable.own_folder(self._path.parent)
            with durable.as_owner(self._path.parent):
                self._replace(data)
        except OSError as error:
            raise UpdateError(
                f"{self._path}: cannot be written: {error.strerror or error}",
                "Look at this disk: space, mode, faults. What runs goes on running.",
                "disk",
            ) from error

    def _replace(self, data: bytes) -> None:
        try:
            durable.replace(self._path, data, _MODE)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._room.exists():
                raise
            self._room.unlink()
            durable.replace(self._path, data, _MODE)
        else:
            self._set_aside()

    def _set_aside(self) -> None:
        if self._room.exists():
            return
        with contextlib.suppress(OSError):
            self._room.write_bytes(bytes(_ROOM))


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Hold the right to work on updates here; False = another process has it."""
    durable.own_folder(folder)
    with durable.as_owner(folder):
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def _unusable(path: Path, why: object) -> UpdateError:
    return UpdateError(
        f"{path}: cannot be used: {why}",
        "What runs goes on running. To take updates again, move the file away; assignments that"
        " were seen before could then be replayed until they expire.",
        "state",
    )
