"""The port `Units` under systemd, for a process without rights.

A request is an empty file; root's list (`services/requests`) says what of it is done. How a unit goes is
a file as well, written by the unit itself at its start and end, so nothing has to be asked
(docs/adr/0006). Both are in `/run`: after a boot nothing was asked for and nothing is told.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from edgetrt.errors import EdgetrtError

FOLDER = Path("/run/edgetrt")

_ALLOWED = re.compile(
    r"(?:(?:start|stop):build|start:power)@[A-Za-z0-9][A-Za-z0-9_.-]{0,127}|restart:runtime",
    re.ASCII,
)
_STATES = ("active", "inactive", "activating", "failed")


class SystemUnits:
    """Units by their short names: `runtime`, `build@<digest>`, `power@<mode>`.

    Args:
        folder: where requests and states are.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._requests = folder / "requests"
        self._states = folder / "units"

    @property
    def served(self) -> bool:
        """Whether somebody takes requests here."""
        return self._requests.is_dir()

    def start(self, unit: str) -> None:
        """Ask for a start; no effect when it runs. From now on its state is `activating`.

        Raises:
            EdgetrtError: not a unit that may be started, or nobody takes requests.
        """
        self._ask("start", unit)

    def restart(self, unit: str) -> None:
        """Ask for a stop and a start; its state follows. Raises as `start` does."""
        self._ask("restart", unit)

    def stop(self, unit: str) -> None:
        """Ask for its end; raises as `start` does."""
        self._ask("stop", unit)

    def state(self, unit: str) -> str:
        """`active`, `inactive` (not since the boot, or ended well), `activating` or `failed`.

        A oneshot is `activating` while it works, and `inactive` when it has done so.
        """
        state = self._told(unit).partition(" ")[0]
        return state if state in _STATES else "inactive"

    def reason(self, unit: str) -> str:
        """Why it failed, as systemd says: `exit-code exited 65`, `oom-kill killed KILL`; else empty."""
        state, _, reason = self._told(unit).partition(" ")
        return reason if state == "failed" else ""

    def _told(self, unit: str) -> str:
        try:
            return (self._states / unit).read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            return ""

    def _ask(self, verb: str, unit: str) -> None:
        request = f"{verb}:{unit}"
        if not _ALLOWED.fullmatch(request):
            raise EdgetrtError(f"unit {unit!r}: not one that edgetrt may {verb}")
        try:
            if verb == "start":
                fresh = self._states / f".asked-{unit}"
                fresh.write_text("activating\n", encoding="ascii")
                fresh.replace(self._states / unit)
            (self._requests / request).touch()
        except OSError as error:
            if verb == "start":  # else it would be waited for
                with contextlib.suppress(OSError):
                    (self._states / unit).unlink()
            raise EdgetrtError(
                f"unit {unit}: {verb} cannot be asked for: {error}",
                "Is edgetrt-requests.path active? systemctl status edgetrt-requests.path",
            ) from error
