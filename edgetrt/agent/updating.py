"""Updates as a part of the agent: what the broker and people ask for is walked through, and told.

All of it happens in one thread of its own, since its steps wait for disks and networks; the event loop
only hands messages over and hears of changes. Nothing that goes wrong here ends the agent.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from edgetrt import wire
from edgetrt.config import PipelineSettings
from edgetrt.errors import EdgetrtError, UnreachableError
from edgetrt.update import held
from edgetrt.update.assignments import THROTTLED, Assignments
from edgetrt.update.record import alone

if TYPE_CHECKING:
    from edgetrt.agent.verdict import Demand
    from edgetrt.agent.watch import Watch
    from edgetrt.update.line import Line
    from edgetrt.update.local import Local
    from edgetrt.update.ports import Engines
    from edgetrt.update.record import Check, Record
    from edgetrt.update.steps import Switching

_log = logging.getLogger(__name__)

_LOOK_S = 0.5
"""How often the files that people's wishes and the guard's mark are in are looked for."""
_AGAIN_S = 10.0
"""When something that should not fail did: how long until it is tried again."""
_LINGER_S = 30.0
"""For how long what verifies is kept: forged assignments, however many, must not begin it anew each."""
_END_S = 3.0
"""How long a step may take to see that the agent stops; then it is left, to be begun again."""


class Stopped(Exception):
    """The agent stops: what is under way is left as it is, and begun again after the next start."""


class Updating:
    """Walks this device's updates while the agent runs.

    Args:
        local: of this device.
        switching: the steps that touch what serves.
        engines: those that `switching` uses.
        watch: gets what the runtime reports, for the proof.
        stop: set when the agent stops; whoever waits in a step looks at it.
        demands: reads what is to run now.
        line: over which releases come through the broker; None = they do not.

    Attributes:
        watch, line: as given.
        report: what is told of updates; replaced as a whole.
        demands: what was to run when that changed last.
    """

    def __init__(
        self,
        local: Local,
        switching: Switching,
        engines: Engines,
        watch: Watch,
        stop: threading.Event,
        demands: Callable[[], Mapping[str, Demand]] = dict,
        line: Line | None = None,
    ) -> None:
        self.watch, self.line = watch, line
        self.report = wire.UpdateReport()
        self._local, self._engines, self._stop = local, engines, stop
        self._machine = local.machine(switching.steps(), self._told)
        self._assignments = Assignments(local.verifying, self._machine, self._settled)
        self.demands: Mapping[str, Demand] = {}
        self._read_demands = demands
        self._wake = threading.Event()
        self._waiting = threading.Lock()
        self._desired: tuple[bytes, float] | None = None
        self._knock_s = self._room_s = 0.0
        self._due_s: float | None = 0.0
        self._fault = self._waits = ""
        self._brief = self._begun = self._yields = False
        self._post: Callable[[Callable[[], object]], None] = lambda _: None
        self._on_change: Callable[[wire.UpdateReport, str], None] = lambda *_: None
        self._on_settings: Callable[[int, Mapping[str, PipelineSettings]], object] = lambda *_: None
        self._on_demands: Callable[[Mapping[str, Demand]], None] = lambda _: None

    def connect(
        self,
        on_change: Callable[[wire.UpdateReport, str], None],
        on_settings: Callable[[int, Mapping[str, PipelineSettings]], object],
        on_demands: Callable[[Mapping[str, Demand]], None],
    ) -> None:
        """Say who is told, in the event loop.

        Args:
            on_change: of a new report, with a line for people when something happened.
            on_settings: of settings that the assignment key signed, with their generation.
            on_demands: of what is to run, when another release serves.
        """
        self._on_change, self._on_settings, self._on_demands = on_change, on_settings, on_demands

    def take(self, payload: bytes) -> None:
        """Take note of a `desired` of the broker; a newer one takes its place. Never waits."""
        if payload:
            with self._waiting:
                self._desired = payload, time.monotonic()
                self._knock_s = 0.0
            self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        loop = asyncio.get_running_loop()

        def post(call: Callable[[], object]) -> None:
            if not self._stop.is_set():
                loop.call_soon_threadsafe(call)

        self._post = post
        thread = threading.Thread(target=self._work, name="updates", daemon=True)
        thread.start()
        try:
            await asyncio.Event().wait()
        finally:
            self._stop.set()
            self._wake.set()
            await asyncio.to_thread(thread.join, _END_S)
            if thread.is_alive():
                _log.warning("a step of the update is left as it is; it is begun again")

    def progress(self, *_: int) -> None:
        """Told of a download; ends it when the agent stops, and lets a newer word be heard meanwhile."""
        if self._stop.is_set():
            raise Stopped
        if self._has_word(self._room_s) or self._local.requests.any():
            self._room_s, self._yields = time.monotonic() + _AGAIN_S, True
            raise UnreachableError(
                "the download makes room for a newer word, and goes on", "", "lost"
            )

    def _work(self) -> None:
        """The thread: hold the right to work on updates, and do so."""
        while not self._stop.is_set():
            try:
                with alone(self._local.layout.root) as mine:
                    if mine:
                        self._walk()
                    else:
                        self._failed("another process works on updates")
            except Stopped:
                return
            except OSError as error:
                self._failed(f"{self._local.layout.root}: {error.strerror or error}")
            self._stop.wait(_LOOK_S)

    def _walk(self) -> None:
        try:
            while not self._stop.is_set():
                if self._has_word() or self._is_due():
                    self._due_s = self._next()
                left_s = _LOOK_S if self._due_s is None else self._due_s - time.monotonic()
                self._wake.wait(min(_LOOK_S, max(0.0, left_s)))
                self._wake.clear()
                self._local.verifying.rest(_LINGER_S)
        finally:
            held.write(self._local.layout.root, "")
            self._local.verifying.rest(0.0)

    def _has_word(self, not_before_s: float = 0.0) -> bool:
        """Whether something of the broker can be looked at now."""
        return self._desired is not None and time.monotonic() >= max(self._knock_s, not_before_s)

    def _is_due(self) -> bool:
        """Whether the machine goes on now."""
        due = self._due_s is not None and time.monotonic() >= self._due_s
        return due or self._local.requests.any()

    def _next(self) -> float | None:
        """Do what can be done now; returns when to come again, None = when somebody asks."""
        try:
            if not self._begun:
                self._publish()
                self._begun = True
            if not self._answer() and not self._is_due():
                return self._due_s  # anybody can send what was refused: it hastens nothing
            wait_s: float | None = 0.0
            while wait_s == 0.0 and not self._stop.is_set():
                self._yields = False
                wait_s = self._machine.step()
                self._rest()
            wait_s = 0.0 if self._yields else wait_s
            if self._fault:
                self._fault = ""
                self._publish()
        except Stopped:
            raise
        except (EdgetrtError, OSError) as error:
            self._failed(error.message if isinstance(error, EdgetrtError) else str(error))
            wait_s = _AGAIN_S
        except Exception as error:  # noqa: BLE001 - it must not end the agent, and is told and logged
            _log.debug("updates", exc_info=True)
            self._failed(f"internal error: {type(error).__name__}: {error}")
            wait_s = _AGAIN_S
        return None if wait_s is None else time.monotonic() + wait_s

    def _answer(self) -> bool:
        """See to what the broker brought; returns whether the machine has something new to do."""
        with self._waiting:
            desired, self._desired = self._desired, None
        if desired is None:
            return False
        if time.monotonic() < self._knock_s:
            self._keep(desired)
            return False
        try:
            answer = self._assignments.accept(*desired)
        except UnreachableError as error:
            self._keep(desired, _AGAIN_S)
            self._waiting_for(error)
            return False
        except (EdgetrtError, OSError):  # the disk: what was signed must not be lost over it
            self._keep(desired, _AGAIN_S)
            raise
        self._waits, self._brief = "", False
        told = "" if answer is None or answer.answer != "older" else answer.detail
        self._publish(told)
        return answer is not None and answer.answer in ("begun", "waits")

    def _waiting_for(self, why: UnreachableError) -> None:
        """Tell why what came cannot be looked at yet, once; anybody may have sent it, so it is no event."""
        told = f"an assignment waits: {why.in_line}"
        if told != self._waits:
            self._waits, self._brief = told, why.code == THROTTLED
            _log.log(logging.INFO if self._brief else logging.WARNING, "updates: %s", told)
            self._publish()

    def _keep(self, desired: tuple[bytes, float], wait_s: float = 0.0) -> None:
        """Look at it again later, unless a newer one came."""
        with self._waiting:
            if self._desired is None:
                self._desired = desired
                self._knock_s = max(self._knock_s, time.monotonic() + wait_s)

    def _rest(self) -> None:
        record = self._local.store.load().record
        if record is None or record.code is not None or record.state.value != "BUILD":
            self._engines.rest()

    def _settled(self, generation: int, settings: Mapping[str, PipelineSettings]) -> None:
        self._post(lambda: self._on_settings(generation, settings))

    def _failed(self, why: str) -> None:
        if why != self._fault:
            self._fault = why
            _log.warning("updates: %s", why)
            try:
                self._publish()
            except Exception:  # noqa: BLE001 - telling of a fault must not end the thread
                _log.exception("updates: the fault cannot be told")

    def _told(self, record: Record) -> None:
        """The machine's word on every change."""
        at = record.code.value if record.code else record.state.value
        before = self.report.code or self.report.state
        new = (at, record.generation, record.digest) != (
            before,
            self.report.generation,
            self.report.digest,
        )
        why = record.detail if record.code else ""
        self._publish(f"{at}: {why}".removesuffix(": ") if new else "", record)

    def _publish(self, told: str = "", record: Record | None = None) -> None:
        serving = self._local.layout.current()
        switched = serving != self.report.serving
        self.report = report = self._describe(record, serving)
        if not self._brief:  # a flood of forged ones must not wear the disk
            held.write(self._local.layout.root, self._waits or self._fault)
        self._post(lambda: self._on_change(report, told))
        if switched or not self._begun:
            self.demands = demands = self._read_demands()
            self._post(lambda: self._on_demands(demands))

    def _describe(self, record: Record | None, serving: str) -> wire.UpdateReport:
        newest = self.report.newest
        if not self._fault:
            memory = self._local.store.load()
            record, newest = record or memory.record, max(memory.floor, memory.settled)
        return describe(record, serving, newest, self._assignments, self._fault, self._waits)


def describe(
    record: Record | None,
    serving: str,
    newest: int,
    assignments: Assignments,
    fault: str = "",
    waits: str = "",
) -> wire.UpdateReport:
    """What is told of updates."""
    told = wire.UpdateReport(
        serving=serving,
        newest=newest,
        refused=dict(assignments.refused),
        older=assignments.older,
        fault=fault,
        held=waits,
    )
    if record is None:
        return told
    verdict = record.verdict
    return replace(
        told,
        generation=record.generation,
        target=record.target,
        digest=record.digest,
        state=record.state.value,
        code=record.code.value if record.code else "",
        reason=record.reason,
        detail=record.detail,
        hint=record.hint,
        held=record.held or waits,
        since=record.entered_at,
        checks=() if verdict is None else tuple(map(_check, verdict.checks)),
        log=() if verdict is None else verdict.log,
    )


def _check(one: Check) -> wire.CheckReport:
    return wire.CheckReport(name=one.name, ok=one.ok, value=one.value, limit=one.limit)
