"""A bundle that another updater brought: handed to whoever walks updates here, followed to its end.

Nothing is trusted on its word: the bundle is an offer like any other, and VERIFY looks at it.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from edgetrt.errors import TrustError, UpdateError
from edgetrt.update import bundle, durable, transition
from edgetrt.update.desired import peek
from edgetrt.update.record import FileStore, Offer, Record
from edgetrt.update.requests import Request, Requests
from edgetrt.update.states import ROWS, Code

_LOOK_S = 0.2
_CHUNK = 1 << 20


class Handover:
    """The folder of updates, as another program sees it; it may run as root.

    Args:
        folder: of updates.
        device: name of this device.
        taken_s: how long the agent may take to see a wish.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        folder: Path,
        device: str,
        taken_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder, self._device, self._taken_s, self._sleep = folder, device, taken_s, sleep
        self._inbox = folder / "inbox"
        self._store, self._requests = FileStore(folder), Requests(folder)

    def give(self, path: Path) -> Offer:
        """Ask for a bundle to be taken; raises as `keep`, which it does first."""
        offer = self.keep(path)
        self._ask("import", peek(offer.envelope.encode()).sha256, offer)
        return offer

    def keep(self, path: Path) -> Offer:
        """Keep a copy of a bundle until `forget`, where whoever walks updates can read it.

        Raises:
            TrustError: it is not for this device.
            UpdateError: it is no bundle, or there is no room for it.
        """
        offer = bundle.offer(path, self._device)
        desired = peek(offer.envelope.encode())
        if not desired.sha256:
            raise TrustError(
                f"{path}: assigns settings only", "A bundle is for a release.", "malformed"
            )
        return Offer(envelope=offer.envelope, bundle=str(self._keep(path)))

    def fate(self, offer: Offer) -> Record | None:
        """What became of an offer so far; None = it has not been looked at yet.

        Raises:
            TrustError: it was overtaken by a newer assignment before, and is ignored.
        """
        memory = self._store.load()
        for record in (memory.record, *memory.history):
            if record is not None and record.offer == offer:
                return record
        asked = self._pending()
        if memory.waiting == offer or (asked is not None and asked.offer == offer):
            return None
        desired = peek(offer.envelope.encode())
        if desired.generation < (newest := max(memory.floor, memory.settled)):
            raise TrustError(
                f"desired: generation {desired.generation}, {newest} was seen before",
                "Assign it again with a higher generation, and make a new bundle.",
                "older",
            )
        if (memory.floor, memory.seen) == (desired.generation, desired.sha256):
            return transition.of(memory, desired.sha256)
        self._ask("import", desired.sha256, offer)  # another wish took its place
        return None

    def call_off(self, record: Record) -> bool:
        """Ask for the end of an update; False = the switch has begun, it goes on."""
        if record.code is not None or not ROWS[record.state].cancel:
            return False
        self._ask("abort", record.digest)
        return True

    def wait(self, offer: Offer, most_s: float, tell: Callable[[Record], None]) -> Record:
        """Follow an offer to its end.

        Args:
            offer: which.
            most_s: give up after so long; the update itself goes on.
            tell: is told of every new state.

        Raises:
            TrustError: see `fate`.
            UpdateError: nobody took it, or it has not ended in time.
        """
        begun, last = time.monotonic(), ""
        while True:
            record = self.fate(offer)
            if record is not None and record.code is not None:
                return record
            spent_s = time.monotonic() - begun
            if record is not None and f"{record.state} {record.held}" != last:
                last = f"{record.state} {record.held}"
                tell(record)
            if spent_s > self._taken_s:
                self._check_taken()
            if spent_s > most_s:
                at = "nowhere yet" if record is None else f"in {record.state.value}"
                raise UpdateError(
                    f"update: not over after {most_s:.0f} s, {at}",
                    "See `edgetrt update status` for what it waits for.",
                    "deadline",
                )
            self._sleep(_LOOK_S)

    def take_back(self, offer: Offer, most_s: float) -> str:
        """Make sure that an offer does not serve: call it off, or go back to what was before.

        Returns:
            What was done, in words.

        Raises:
            UpdateError: it serves all the same.
        """
        record = self._asked(offer, most_s)
        if record is not None and record.code is None:
            self.call_off(record)
            record = self.wait(offer, most_s, lambda _: None)
        if record is None or record.code is not Code.SUCCEEDED or record.serves:
            return "it does not serve; nothing is to be taken back"
        memory = self._store.load()
        if not self.serves(record.digest):
            return "another release serves already"
        if not memory.previous:
            raise UpdateError(
                f"{record.target}: there is no release before it", "Assign another.", "nothing"
            )
        self._ask("rollback", record.digest)
        begun = time.monotonic()
        while self.serves(record.digest):
            if time.monotonic() - begun > self._taken_s:
                self._check_taken()
            if time.monotonic() - begun > most_s:
                raise UpdateError(
                    f"{record.target}: still serves after {most_s:.0f} s", "", "deadline"
                )
            self._sleep(_LOOK_S)
        return "the release before serves again"

    def serves(self, digest: str) -> bool:
        """Whether a release is the one that serves."""
        with durable.as_owner(self._folder), contextlib.suppress(OSError):
            return (self._folder / "current").readlink().name == digest
        return False

    def kept(self, path: Path) -> Offer:
        """The offer that `keep` made of a bundle.

        Raises:
            UpdateError: see `keep`.
        """
        offer = bundle.offer(path, self._device)
        return Offer(envelope=offer.envelope, bundle=str(self._place(path)))

    def forget(self, offer: Offer) -> None:
        """Remove the copy of a bundle whose update is over."""
        with durable.as_owner(self._folder):
            durable.remove(Path(offer.bundle))

    def _asked(self, offer: Offer, most_s: float) -> Record | None:
        """What became of it; a wish that nobody took is withdrawn, one that waits is waited for."""
        asked = self._pending()
        if asked is not None and asked.offer == offer:
            with durable.as_owner(self._folder):
                self._requests.clear()
            self._sleep(_LOOK_S)  # it may have been taken just now
        begun = time.monotonic()
        while (memory := self._store.load()).waiting == offer:
            if time.monotonic() - begun > most_s:
                raise UpdateError(f"update: still waits after {most_s:.0f} s", "", "deadline")
            self._sleep(_LOOK_S)
        known = (memory.record, *memory.history)
        return next((one for one in known if one is not None and one.offer == offer), None)

    def _check_taken(self) -> None:
        if self._pending() is not None:
            raise UpdateError(
                f"update: nobody took the wish within {self._taken_s:.0f} s",
                "Is the agent running, and has its agent.yaml an `update` section?",
                "nobody",
            )

    def _pending(self) -> Request | None:
        with durable.as_owner(self._folder):
            return self._requests.pending()

    def _ask(self, what: str, digest: str, offer: Offer | None = None) -> None:
        try:
            with durable.as_owner(self._folder):
                self._requests.ask(Request(what=what, digest=digest, offer=offer))  # type: ignore[arg-type]
        except OSError as error:
            raise UpdateError(
                f"{self._folder}: the wish cannot be left: {error.strerror}",
                "Look at this disk: space, mode, faults.",
                "disk",
            ) from error

    def _keep(self, path: Path) -> Path:
        """Copy a bundle to where the agent can read it; it may have come from root's own folder."""
        place = self._place(path)
        beside = place.with_name(f".new-{place.name}")
        try:
            with path.open("rb") as source, durable.as_owner(self._folder):
                if place.is_file() and not place.is_symlink():
                    return place
                self._inbox.mkdir(mode=0o750, parents=True, exist_ok=True)
                self._clear_inbox()
                with beside.open("xb") as copy:
                    shutil.copyfileobj(source, copy, _CHUNK)
                durable.flush_file(beside)
                beside.replace(place)
                durable.flush(self._inbox)
        except OSError as error:
            raise UpdateError(
                f"{path}: cannot be kept in {self._inbox}: {error.strerror}",
                "Look at this disk: space, mode, faults.",
                "disk",
            ) from error
        return place

    def _clear_inbox(self) -> None:
        """Remove what nobody waits for: half a copy, and bundles whose updates are over."""
        memory, asked = self._store.load(), self._pending()
        flying = memory.record if memory.record and memory.record.code is None else None
        offers = (flying and flying.offer, memory.waiting, asked and asked.offer)
        needed = {offer.bundle for offer in offers if offer}
        for path in self._inbox.iterdir():
            if str(path.resolve()) not in needed:
                durable.remove(path)

    def _place(self, path: Path) -> Path:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        with durable.as_owner(self._folder):
            return self._inbox.resolve() / f"{digest.hexdigest()}.edgetrt"


def lines(record: Record) -> list[str]:
    """An update in words, for the log of another updater."""
    at = record.state if record.code is None else record.code
    told = [f"{record.target or record.digest[:16]}, generation {record.generation}: {at.value}"]
    if record.held:
        told.append(f"waits: {record.held}")
    if record.reason:
        told.append(f"{record.reason}: {record.detail}")
    if record.hint:
        told.append(f"hint: {record.hint}")
    if record.verdict is not None:
        for check in record.verdict.checks:
            sign = "ok" if check.ok else "NOT OK"
            told.append(f"{check.name}: {check.value}, limit {check.limit}: {sign}")
        told.extend(f"| {line}" for line in record.verdict.log)
    return told
