"""`edgetrt mender`: what Mender's update module asks of this device.

The protocol is Mender's "Update modules v3" (Documentation/update-modules-v3-file-api.md in
https://github.com/mendersoftware/mender): one call per state, with the state's name and a folder whose
`files/` holds the payload; any exit code but 0 is a failure, and unknown states are no error.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetrt.cli.handing import open_handover
from edgetrt.cli.output import err
from edgetrt.cli.runtime import DEFAULT_CONFIG
from edgetrt.errors import UpdateError

if TYPE_CHECKING:
    from edgetrt.update.handover import Handover
    from edgetrt.update.record import Offer, Record

_WAIT_S = 3.5 * 3600
"""Mender itself ends a module after four hours (`ModuleTimeoutSeconds`)."""


def mender(
    state: Annotated[str, typer.Argument(help="Of Mender's update module protocol.")],
    files: Annotated[Path | None, typer.Argument(help="Mender's folder of this update.")] = None,
    config: Annotated[
        Path, typer.Option(envvar="EDGETRT_CONFIG", help="The device's agent.yaml.")
    ] = DEFAULT_CONFIG,
    folder: Annotated[
        Path | None, typer.Option(help="Folder of updates; default: this device's.")
    ] = None,
    wait_s: Annotated[float, typer.Option(help="How long an install may take.")] = _WAIT_S,
    taken_s: Annotated[float, typer.Option(help="How soon the agent must see to it.")] = 60.0,
) -> None:
    """Answer Mender: called by the update module `edgetrt`, not by people."""
    answers = {"NeedsArtifactReboot": "No", "SupportsRollback": "Yes"}
    if state in answers:
        typer.echo(answers[state])
    elif files is not None and state in ("ArtifactInstall", "ArtifactCommit", "ArtifactRollback"):
        handover = open_handover(config, folder, taken_s).handover
        bundle = _bundle(files)
        if state == "ArtifactInstall":
            _install(handover, handover.give(bundle), wait_s)
        elif state == "ArtifactCommit":
            _commit(handover, handover.kept(bundle))
        else:
            err.print(handover.take_back(handover.kept(bundle), wait_s), highlight=False)
    elif files is not None and state == "Cleanup":
        _clean(open_handover(config, folder, taken_s).handover, files)


def _install(handover: Handover, offer: Offer, wait_s: float) -> None:
    """Let the machine take it, to the end: PROVE included."""
    _good(handover.wait(offer, wait_s, _print))


def _commit(handover: Handover, offer: Offer) -> None:
    """The machine has committed by itself; look that it is still so."""
    record = handover.fate(offer)
    if record is None:
        raise UpdateError("update: it is not known here", "Deploy the artifact again.", "nothing")
    _good(record)
    if not handover.serves(record.digest):
        raise UpdateError(f"{record.target}: serves no more", "See `edgetrt update show`.", "gone")


def _good(record: Record) -> None:
    from edgetrt.update.states import Code

    _print(record)
    if record.code is not Code.SUCCEEDED:
        code = record.code.value if record.code else record.state.value
        told = f"{code}: {record.reason}: {record.detail}"
        raise UpdateError(told, record.hint, record.reason)


def _clean(handover: Handover, files: Path) -> None:
    for path in sorted((files / "files").glob("*")):
        try:
            handover.forget(handover.kept(path))
        except UpdateError:  # what was no bundle was not kept either
            continue


def _print(record: Record) -> None:
    from edgetrt.update.handover import lines

    for line in lines(record):
        err.print(line, soft_wrap=True, highlight=False, markup=False)


def _bundle(files: Path) -> Path:
    """The payload."""
    found = sorted((files / "files").glob("*"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UpdateError(
            f"{files}: {len(found)} payload files, expected one bundle: {names}",
            "Make the artifact of the one file that `edgetrt release bundle` wrote.",
            "bundle",
        )
    return found[0]
