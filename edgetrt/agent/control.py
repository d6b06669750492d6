"""Settings of pipelines that came from afar: kept, told to the runtime, compared with what it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgetrt import wire
from edgetrt.config import Name, PipelineSettings
from edgetrt.errors import MessageError
from edgetrt.update import durable

if TYPE_CHECKING:
    from edgetrt.ports import Message

_log = logging.getLogger(__name__)

Settings = Mapping[str, PipelineSettings]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted, as it is kept.

    Attributes:
        generation: grows with every change; 0 = nothing was ever wanted.
        signed: it was; generations of the one kind say nothing about the other.
        settings: by pipeline; one that is not there runs as its file says.
    """

    generation: int = 0
    signed: bool = False
    settings: dict[Name, PipelineSettings] = {}


_DECODER = msgspec.json.Decoder(Wanted)


class Control:
    """What is wanted of the pipelines, and what of it is so.

    The runtime says with every report which settings are in force. Where they are not those that are
    wanted it is told, again and again: neither process needs to know when the other starts.

    Args:
        folder: where it outlives a restart; None = nowhere.
        tell: sends a message to the runtime; False when it did not leave.
        changed: called when what is wanted or what is in force has changed.

    Attributes:
        wanted: now.
        refusal: why the last plain message was not taken; empty when it was.
    """

    def __init__(
        self,
        folder: Path | None,
        tell: Callable[[wire.Struct], bool],
        changed: Callable[[], None],
        unsigned: bool = True,
    ) -> None:
        self._path = None if folder is None else folder / "settings.json"
        self._tell = tell
        self._changed = changed
        self._seen: dict[str, tuple[object, ...]] = {}
        stored = self._load()
        # What came unsigned ends with the word that let it in.
        self.wanted = stored if stored.signed or unsigned else Wanted()
        self.refusal = ""

    def settle(self, generation: int, settings: Settings, *, signed: bool = True) -> bool:
        """Want these from now on; False for a generation older than, or the same as, the last one.

        A signature must have been verified before.
        """
        if self._is_old(generation, signed):
            return False
        self.wanted = Wanted(generation=generation, signed=signed, settings=dict(settings))
        self.refusal = ""
        self._store()
        self._changed()
        return True

    def take(self, message: Message) -> None:
        """Take plain, unsigned settings.

        Raises:
            MessageError: they are none; what was wanted stays.
        """
        if not message.payload:  # the broker was told to keep none any more; what is in force stays
            return
        plain = wire.decode(wire.DesiredMessage, message.payload)
        if self._is_old(plain.generation, signed=False):
            return
        try:
            settings = msgspec.convert(plain.settings, dict[Name, PipelineSettings])
        except msgspec.ValidationError as error:
            self.refusal = f"generation {plain.generation} was refused: {error}"[:300]
            self._changed()
            raise MessageError(f"desired: {error}") from error
        self.settle(plain.generation, settings, signed=False)

    def look(self, report: wire.PipelineReport) -> None:
        """Compare what a pipeline says with what is wanted of it, and tell it when that differs."""
        name, generation = report.pipeline, self.wanted.generation
        settings = _plain(self.wanted.settings.get(name))
        so = report.generation == generation and (report.settings == settings or report.unsettled)
        if generation and not so:
            self._tell(
                wire.SettingsMessage(pipeline=name, generation=generation, settings=settings)
            )
        seen = (report.generation, report.settings, report.unsettled)
        if self._seen.get(name, (0, {}, "")) != seen:
            self._seen[name] = seen
            self._changed()

    def unsettled(self, reports: Iterable[wire.PipelineReport]) -> dict[str, str]:
        """By pipeline, why it does not run with what is wanted; `desired` for the message itself."""
        wanted, told = self.wanted, {"desired": self.refusal} if self.refusal else {}
        if not wanted.generation:
            return told
        here = {report.pipeline: report for report in reports}
        for name in sorted({*wanted.settings, *here}):
            report = here.get(name)
            if report is None:
                told[name] = "no pipeline of that name reports here"
            elif report.generation != wanted.generation:
                told[name] = f"looked at generation {report.generation} last"
            elif report.unsettled:
                told[name] = report.unsettled
        return told

    def reasons(self, reports: Iterable[wire.PipelineReport]) -> tuple[wire.Reason, ...]:
        """The same for the verdict, without those that are on their way."""
        reports = tuple(reports)
        pending = {r.pipeline for r in reports if r.generation != self.wanted.generation}
        return tuple(
            wire.Reason(state="degraded", code="settings", about=name, text=why)
            for name, why in self.unsettled(reports).items()
            if name not in pending and (reports or name == "desired")
        )

    def _is_old(self, generation: int, signed: bool) -> bool:
        return signed is self.wanted.signed and generation <= self.wanted.generation

    def _load(self) -> Wanted:
        if self._path is None:
            return Wanted()
        try:
            return _DECODER.decode(self._path.read_bytes())
        except FileNotFoundError:
            return Wanted()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            _log.warning(
                "settings %s: cannot be read, pipelines run as their files say: %s",
                self._path,
                error,
            )
            return Wanted()

    def _store(self) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            durable.replace(self._path, msgspec.json.encode(self.wanted))
        except OSError as error:
            _log.warning(
                "settings %s: cannot be stored, a restart forgets them: %s", self._path, error
            )


def _plain(settings: PipelineSettings | None) -> dict[str, Any]:
    """What is set, as it looks after its way over the link."""
    said = msgspec.json.encode(settings or PipelineSettings())
    plain: dict[str, Any] = msgspec.json.decode(said)
    return {key: value for key, value in plain.items() if value is not None}
