"""The device's health in a small file, for `edgetrt status` on the same machine."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import msgspec

from edgetrt.errors import TransportError
from edgetrt.wire import HealthMessage, UpdateReport

_log = logging.getLogger(__name__)
FILE = "status.json"
UP_FOLDER = "edgetrt-up-"
"""How the folder of an `edgetrt up` begins, where temporary files are."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent last said.

    Attributes:
        health: as it is published.
        connected: to the broker.
        broker: why not, in words.
        pid: of the agent.
        period_s: the next word is due within this time.
        update: how far an update is; None = this device takes no releases.
    """

    health: HealthMessage
    connected: bool
    broker: str
    pid: int
    period_s: float
    update: UpdateReport | None = None


def write(folder: Path, status: Status) -> bool:
    """Replace the file as a whole; False when that failed, which stops nothing else."""
    path = folder / FILE
    fresh = path.with_suffix(".new")
    try:
        fresh.write_bytes(msgspec.json.encode(status))
        fresh.replace(path)
    except OSError as error:
        _log.debug("status %s: cannot be written: %s", path, error)
        return False
    return True


def read(folder: Path) -> Status:
    """Read what the agent said last.

    Raises:
        TransportError: there is no file, or it cannot be read.
    """
    path = folder / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Status)
    except FileNotFoundError:
        raise TransportError(f"{path}: no agent has written its status there", _hint()) from None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TransportError(f"{path}: cannot be read: {error}", _hint()) from error


def _hint() -> str:
    """Where an agent writes; one of `edgetrt up` does so in a folder that is made at each start."""
    found = sorted(Path(tempfile.gettempdir()).glob(f"{UP_FOLDER}*/{FILE}"))
    if not found:
        return "Is the agent running? Start it (`edgetrt up`), or name its folder with --run-dir."
    folders = ", ".join(str(path.parent) for path in found)
    return f"`edgetrt up` runs one: edgetrt status --run-dir {folders}"


def silent_s(status: Status, now_ns: int, boot: str) -> float | None:
    """How long ago the agent spoke, when that is too long; else None. Infinite after a reboot."""
    clock = status.health.clock
    if clock.boot != boot:
        return float("inf")
    age_s = (now_ns - clock.mono_ns) * 1e-9
    return age_s if age_s > 3 * status.period_s + 2.0 else None
