"""A device of a hawkBit server: bundles come from there, and it hears how they went.

The server chooses and watches; it is not trusted. What it sends is a bundle with its own signatures,
and the machine looks at those as at any other's.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec.structs import replace

from edgetrt.errors import (
    DigestError,
    EdgetrtError,
    IncompatibleError,
    TrustError,
    UnreachableError,
    UpdateError,
)
from edgetrt.update import durable
from edgetrt.update.ddi import Action, Artifact, Ddi, Execution, Finished, Link
from edgetrt.update.fetch import Progress, forget
from edgetrt.update.handover import Handover, lines
from edgetrt.update.record import Offer, Record
from edgetrt.update.states import Code

SUFFIX = ".edgetrt"
_LOOK_S = 0.5
_LONGEST_RETRY_S = 300.0


class Final(msgspec.Struct, frozen=True):
    """The last word on an action, said until the server has heard it."""

    link: str
    execution: Execution
    how: Finished
    words: list[str]


class Memory(msgspec.Struct, frozen=True):
    """What survives a restart.

    Attributes:
        action: the server's id of it.
        offer: what was handed over for it.
        told: the last state that the server heard.
        canceling: the server wants it called off.
        final: how it ended.
        heard: the server has heard that.
    """

    action: str = ""
    offer: Offer | None = None
    told: str = ""
    canceling: bool = False
    final: Final | None = None
    heard: bool = False


class Hawkbit:
    """The client.

    Args:
        ddi: the server.
        handover: to the machine.
        folder: of updates; `hawkbit.json` and `hawkbit/` in it are ours.
        attributes: what this device is, in names and values that an operator filters by.
        progress: is told of downloads.
    """

    def __init__(
        self,
        ddi: Ddi,
        handover: Handover,
        folder: Path,
        attributes: Callable[[], dict[str, str]],
        progress: Progress = lambda *_: None,
    ) -> None:
        self._ddi, self._handover, self._attributes = ddi, handover, attributes
        self._progress = progress
        self._path, self._downloads = folder / "hawkbit.json", folder / "hawkbit"
        self._memory = self._load()

    def run(self, stop: threading.Event, say: Callable[[EdgetrtError], None]) -> None:
        """Serve until told to stop; what fails is told and tried again, later each time."""
        failures = 0
        while not stop.is_set():
            try:
                due_s, failures = self.poll(), 0
            except EdgetrtError as error:
                say(error)
                failures += 1
                due_s = min(_LONGEST_RETRY_S, 2.0**failures)
            try:
                while due_s > 0 and not stop.wait(_LOOK_S):
                    due_s -= _LOOK_S
                    self.follow()
            except UnreachableError:
                pass  # it is heard of at the next poll
            except EdgetrtError as error:
                say(error)
            stop.wait(max(0.0, due_s))  # it does not hear us: no sooner than it would be asked

    def poll(self) -> float:
        """Ask the server once, and do what can be done at once.

        Returns:
            After how many seconds the server wants to be asked again.

        Raises:
            UpdateError: the server is away, does not know us, or the download does not come.
        """
        work = self._ddi.work()
        if "configData" in work.links:
            self._ddi.describe(self._attributes())
        self.follow()
        if (link := work.links.get("cancelAction")) is not None:
            self._cancel(link)
        elif (link := work.links.get("deploymentBase")) is not None:
            self._deploy(self._ddi.action(link))
        return work.poll_s

    def follow(self) -> None:
        """Tell the server what has changed since it heard of us.

        Raises:
            UnreachableError: it does not hear us now.
        """
        memory = self._memory
        if memory.final is not None:
            self._say_final()
        elif memory.offer is not None:
            try:
                record = self._handover.fate(memory.offer)
            except TrustError as error:
                self._end("failure", _words(error))
                return
            if record is not None:
                self._report(record)

    def _report(self, record: Record) -> None:
        if record.code is not None:
            good = record.code is Code.SUCCEEDED
            self._end("success" if good else "failure", lines(record), record.code)
            return
        now = f"{record.state.value} {record.held}"
        if now != self._memory.told:
            self._tell("proceeding", lines(record))
            self._save(replace(self._memory, told=now))

    def _deploy(self, action: Action) -> None:
        """Begin an action, as far as the server wants it now."""
        memory, wanted = self._memory, action.deployment
        if action.id == memory.action and (memory.offer or memory.final):
            if memory.heard and memory.final:  # it has heard, and asks once more
                self._save(replace(memory, heard=False))
                self.follow()
            return
        if action.id != memory.action:
            forget(self._downloads)
            self._save(Memory(action=action.id))
        if wanted.download == "skip":
            return
        try:
            bundle = self._fetch(action)
            if wanted.update == "skip" or wanted.window == "unavailable":
                self._once("downloaded", ["waits for the server's maintenance window"])
                return
            offer = self._handover.give(bundle)
        except UnreachableError:
            raise
        except UpdateError as error:
            self._end("failure", _words(error))
            return
        self._save(replace(self._memory, offer=offer, told=""))
        forget(self._downloads)

    def _fetch(self, action: Action) -> Path:
        found = [one for chunk in action.deployment.chunks for one in chunk.artifacts]
        bundles = [one for one in found if one.filename.endswith(SUFFIX)]
        if len(bundles) != 1:
            names = ", ".join(one.filename for one in found) or "no file"
            raise UpdateError(
                f"action {action.id}: {len(bundles)} bundles in it, expected one: {names}",
                f"Upload what `edgetrt release bundle -o street{SUFFIX}` wrote, in one module.",
                "bundle",
            )
        if not self._memory.told:
            self._once("proceeding", [f"download of {bundles[0].filename}"])
        return self._bring(bundles[0])

    def _bring(self, artifact: Artifact) -> Path:
        self._downloads.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._ddi.download(artifact, self._downloads, self._progress)

    def _cancel(self, link: Link) -> None:
        """Call an action off, when nothing was switched yet; else the server hears that it goes on."""
        wanted, memory = self._ddi.cancel(link), self._memory
        if wanted != memory.action or (memory.offer is None and memory.final is None):
            forget(self._downloads)
            final = Final("cancelAction", "closed", "success", ["it was never begun here"])
            self._save(Memory(action=wanted, final=final))
            self._say_final()
            return
        if memory.final is not None:
            if memory.final.link == "cancelAction":
                self._save(replace(memory, heard=False))
                self._say_final()
            else:
                self._refuse_cancel(wanted, "it is over: " + "; ".join(memory.final.words))
            return
        record = self._handover.fate(memory.offer) if memory.offer else None
        if record is None or self._handover.call_off(record):
            self._save(replace(memory, canceling=True))
        else:
            self._refuse_cancel(wanted, f"it is in {record.state.value}, the switch has begun")

    def _refuse_cancel(self, action: str, why: str) -> None:
        self._ddi.tell("cancelAction", action, "rejected", "none", [why])

    def _end(self, how: Finished, words: list[str], code: Code | None = None) -> None:
        """Note the last word, then say it.

        A refused update is `closed` with `failure`: hawkBit takes `rejected` for a warning, and would
        keep the action open for ever. A confirmed cancel is `closed` with `success` on the cancel's own
        address, for the same reason.
        """
        memory = self._memory
        link = "deploymentBase"
        if memory.canceling and code is Code.CANCELED:
            link, how = "cancelAction", "success"
        self._save(replace(memory, final=Final(link, "closed", how, words), heard=False))
        self._say_final()

    def _say_final(self) -> None:
        memory = self._memory
        final = memory.final
        if final is None or memory.heard:
            return
        self._ddi.tell(final.link, memory.action, final.execution, final.how, final.words)
        self._save(replace(memory, heard=True))
        if memory.offer is not None:
            self._handover.forget(memory.offer)

    def _once(self, execution: Execution, words: list[str]) -> None:
        """Say it unless it was the last thing said."""
        now = f"{execution} {words[0]}"
        if now != self._memory.told:
            self._tell(execution, words)
            self._save(replace(self._memory, told=now))

    def _tell(self, execution: Execution, words: list[str]) -> None:
        self._ddi.tell("deploymentBase", self._memory.action, execution, "none", words)

    def _load(self) -> Memory:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(self._path.read_bytes(), type=Memory)
        return Memory()

    def _save(self, memory: Memory) -> None:
        if memory == self._memory:
            return
        try:
            durable.replace(self._path, msgspec.json.encode(memory))
        except OSError as error:
            raise UpdateError(
                f"{self._path}: cannot be written: {error.strerror}", "Look at this disk.", "disk"
            ) from error
        self._memory = memory


def _words(error: UpdateError) -> list[str]:
    refused = isinstance(error, (TrustError, DigestError, IncompatibleError))
    code = Code.REJECTED if refused else Code.FAILED
    return [
        code.value,
        f"{error.code}: {error.message}",
        *([f"hint: {error.hint}"] if error.hint else []),
    ]
