"""`edgetrt update`: what this device was told to install, how far that is, and a person's word on it."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from edgetrt.cli import update_report as told
from edgetrt.cli.output import err, out, print_json
from edgetrt.cli.runtime import DEFAULT_CONFIG
from edgetrt.cli.update_build import build
from edgetrt.cli.update_guard import take_back
from edgetrt.errors import ConfigError, UpdateError

if TYPE_CHECKING:
    from edgetrt.update.local import Local
    from edgetrt.update.record import Memory, Record
    from edgetrt.update.requests import Request

app = typer.Typer(help="Take releases, look at them, take them back.", no_args_is_help=True)

app.command("build")(build)
app.command("take-back", hidden=True)(take_back)

_TAKEN_S, _LOOK_S = 60.0, 0.2
"""How long an import waits for the agent to take it, and how often it looks."""
_HEARD_S = 5.0
"""How long a person's wish waits for an agent that runs."""

FolderOption = Annotated[
    Path | None, typer.Option("--folder", help="Folder of updates; default: this device's.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("table")
def table(json: JsonOption = False) -> None:
    """Print the table that every update follows."""
    from edgetrt.update.states import MOST_STORES, TABLE

    ways = ("then", "refused", "failed", "late")
    rows = [
        {
            "state": row.state.value,
            "does": row.does,
            **{way: getattr(row, way).value for way in ways},
            "deadline_s": row.deadline_s,
            "cancel": row.cancel,
        }
        for row in TABLE
    ]
    if json:
        print_json({"rows": rows, "most_stores": MOST_STORES})
        return
    from rich.table import Column, Table

    heads = ("state", *ways, "within", "cancel")
    shown = Table(*(Column(head, no_wrap=True) for head in heads), box=None, pad_edge=False)
    for row in rows:
        to = ["again" if row[way] == row["state"] else row[way] for way in ways]
        shown.add_row(row["state"], *to, _span(row["deadline_s"]), "yes" if row["cancel"] else "no")
    out.print(shown)
    out.print()
    for row in rows:
        out.print(f"{row['state']:9} {row['does']}", soft_wrap=True, highlight=False)


@app.command("status")
def status(folder: FolderOption = None, json: JsonOption = False) -> None:
    """Say which release serves, and how far an update is."""
    where = _folder(folder)
    memory, serving, held = _memory(where), _serving(where), _held(where)
    if json:
        found = {"serving": serving, "previous": memory.previous, "update": memory.record}
        print_json({**found, "held": held})
        return
    out.print(f"serves: {told.name(memory, serving)}", highlight=False)
    if memory.previous:
        out.print(f"before: {told.name(memory, memory.previous)}", highlight=False)
    if memory.record is not None:
        out.print(f"update: {escape(told.line(memory.record))}", soft_wrap=True, highlight=False)
    told.print_held(held)


@app.command("show")
def show(
    folder: FolderOption = None,
    history: Annotated[bool, typer.Option("--history", help="Those before as well.")] = False,
    json: JsonOption = False,
) -> None:
    """Tell all about the last update: what was checked, what was found, the last log lines."""
    where = _folder(folder)
    memory, held = _memory(where), _held(where)
    records = [*([memory.record] if memory.record else []), *(memory.history if history else ())]
    if json:
        print_json({"updates": records, "held": held})
        return
    if not records and not held:
        out.print("No update was ever asked for.")
    told.print_held(held)
    for record in records:
        told.print_record(record)


@app.command("import")
def import_(
    bundle: Annotated[Path, typer.Argument(help="A bundle, as street.edgetrt.")],
    config: Annotated[Path, typer.Option(help="The device's agent.yaml.")] = DEFAULT_CONFIG,
    folder: FolderOption = None,
    json: JsonOption = False,
) -> None:
    """Take a release from a file, with the checks of one from the network; the agent goes on from there."""
    from edgetrt.update.record import alone

    where = _folder(folder, change=True)
    with alone(where) as mine:
        record = _import_here(bundle, config, where) if mine else None
    if not mine:
        record = _leave_to_agent(bundle, config, where)
    if json:
        print_json({"update": record})
    elif record is None:
        out.print("Handed to the agent, which is busy; see `edgetrt update status`.")
    else:
        out.print(told.line(record), soft_wrap=True, highlight=False)
    if record and record.code and record.code.value not in ("SUCCEEDED", "ROLLED_BACK"):
        raise UpdateError(f"{bundle}: {record.detail}", record.hint, record.reason)


@app.command("abort")
def abort(folder: FolderOption = None, json: JsonOption = False) -> None:
    """Call the update off, as long as nothing was switched."""
    from edgetrt.update.requests import Request
    from edgetrt.update.states import ROWS

    where = _folder(folder, change=True)
    record = _memory(where).record
    if record is None or record.code is not None:
        raise UpdateError("no update is on its way", "See `edgetrt update status`.", "nothing")
    if not ROWS[record.state].cancel:
        raise UpdateError(
            f"REJECTED: the update is in {record.state.value}, the switch has begun",
            "Let it end; then `edgetrt update rollback` takes it back.",
            "too-late",
        )
    _ask(where, Request(what="abort", digest=record.digest), json)


@app.command("rollback")
def rollback(folder: FolderOption = None, json: JsonOption = False) -> None:
    """Take the release that serves back to the one before."""
    from edgetrt.update.requests import Request

    where = _folder(folder, change=True)
    memory = _memory(where)
    if memory.record is not None and memory.record.code is None:
        raise UpdateError(
            f"an update is in {memory.record.state.value}", "Abort it, or let it end.", "busy"
        )
    if not memory.previous:
        raise UpdateError(
            "there is no release before the one that serves", "Assign another.", "nothing"
        )
    _ask(where, Request(what="rollback", digest=_serving(where)), json)


@app.command("confirm")
def confirm(folder: FolderOption = None) -> None:
    """Give the word that an update waits for, when its assignment asks for one."""
    from edgetrt.update import durable
    from edgetrt.update.conditions import CONSENT

    where = _folder(folder, change=True)
    record = _memory(where).record
    if record is None or record.code is not None or not record.policy.ask:
        raise UpdateError("no update waits for a person", "See `edgetrt update status`.", "nothing")
    with durable.as_owner(where):
        durable.replace(where / CONSENT, record.digest.encode("ascii"))
    out.print(f"{record.target} may go on.", highlight=False)


def _import_here(bundle: Path, config: Path, folder: Path) -> Record:
    """Do what the agent would do before the build, as whom it runs; nobody else works on updates now."""
    from edgetrt.cli.handing import open_handover
    from edgetrt.update import durable

    handover = open_handover(config, folder, _TAKEN_S).handover
    offer = handover.keep(bundle)
    with durable.as_owner(folder):
        local = _local(config, folder)
        answer = local.machine().offer(offer)
        if answer.answer == "older":
            raise UpdateError(f"{bundle}: {answer.detail}", "Assign it again.", "older")
        record = _stage(local)
    handover.forget(offer)
    return record


def _leave_to_agent(bundle: Path, config: Path, folder: Path) -> Record | None:
    """Hand it over, and wait until it is unpacked or refused; None = the agent is busy with another."""
    from edgetrt.cli.handing import open_handover

    handover = open_handover(config, folder, taken_s=_TAKEN_S).handover
    offer, begun = handover.give(bundle), time.monotonic()
    while True:
        record = handover.fate(offer)
        if record is not None and (record.code or record.held or _is_staged(record)):
            if record.code or _is_staged(record):
                handover.forget(offer)
            return record
        if time.monotonic() - begun > _TAKEN_S:
            return record
        time.sleep(_LOOK_S)


def _is_staged(record: Record) -> bool:
    from edgetrt.update.states import State

    return record.state not in (State.VERIFY, State.FETCH, State.STAGE)


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _folder(folder: Path | None, change: bool = False) -> Path:
    """The folder of updates, which this person may look into, or change."""
    from edgetrt.app.places import service_state_dir

    where = folder or service_state_dir() / "update"
    there = next(path for path in (where, *where.absolute().parents) if os.access(path, os.F_OK))
    if not os.access(there, os.R_OK | os.X_OK | (os.W_OK if change else 0)):
        raise UpdateError(
            f"{there}: you may not {'change' if change else 'read'} it",
            "As root: sudo edgetrt update …; who is in the folder's group may look.",
            "denied",
        )
    return where


def _memory(folder: Path) -> Memory:
    from edgetrt.update.record import FileStore

    return FileStore(folder).load()


def _serving(folder: Path) -> str:
    from edgetrt.update import durable

    with durable.as_owner(folder), contextlib.suppress(OSError):
        return (folder / "current").readlink().name
    return ""


def _held(folder: Path) -> str:
    from edgetrt.update import durable, held

    with durable.as_owner(folder):
        return held.read(folder)


def _local(config: Path, folder: Path) -> Local:
    from edgetrt import document
    from edgetrt.agent.identity import identify
    from edgetrt.app.updates import host
    from edgetrt.config import DeviceConfig
    from edgetrt.update.local import assemble

    settings = document.load(config, DeviceConfig)
    if settings.update is None:
        raise ConfigError(
            f"{config}: no `update` section: this device trusts no repository",
            "Set update.root to the repository's first root metadata.",
        )
    return assemble(
        identify(settings, 0).device, host(), settings.update, config, folder, _progress
    )


def _stage(local: Local) -> Record:
    """Go as far as nothing that serves is touched."""
    machine = local.machine()
    while True:
        record = local.store.load().record
        if record is None:
            raise UpdateError("no update was begun", "Import it again.", "nothing")
        if record.code is not None or _is_staged(record):
            return record
        if machine.step():
            held = local.store.load().record
            raise UpdateError(
                f"{record.state.value}: {held.held if held else 'held'}",
                "Import it again when that is over, or `edgetrt update abort`.",
                "held",
            )


def _ask(folder: Path, request: Request, json: bool) -> None:
    """Leave the wish; do it here when nobody is at work and it needs no engines.

    An agent that runs takes it at its next look, unless a step of another update keeps it.
    """
    from edgetrt.update import durable
    from edgetrt.update.machine import Machine, Ports
    from edgetrt.update.record import FileStore, alone
    from edgetrt.update.requests import Requests

    requests = Requests(folder)
    with durable.as_owner(folder):
        requests.ask(request)
        with alone(folder) as mine:
            if mine and request.what == "abort":
                ports = Ports("", _nobody, time.time)
                Machine(FileStore(folder), {}, requests, ports).obey()
        begun = time.monotonic()
        while not mine and requests.any() and time.monotonic() - begun < _HEARD_S:
            time.sleep(_LOOK_S)
        taken = requests.pending() is None
    if json:
        print_json({"asked": request.what, "done": taken})
    elif taken:
        out.print("Done." if mine else "The agent has begun with it; see `edgetrt update status`.")
    elif mine:
        out.print(
            "Asked for; no agent works on updates now, the next one that does begins with it."
        )
    else:
        out.print("Asked for; the agent is busy, and does it next. See `edgetrt update status`.")


def _nobody(*_: object) -> Any:
    raise UpdateError("nothing is verified here")


def _progress(here: int, whole: int) -> None:
    if here == whole:
        err.print(f"{whole / 1e6:.1f} MB read and verified")
