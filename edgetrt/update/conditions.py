"""When a release may be switched to: the window, the application, a person, the board."""

from __future__ import annotations

import fcntl
import os
from datetime import datetime, time
from pathlib import Path

from edgetrt.errors import ConfigError
from edgetrt.update.desired import Policy
from edgetrt.update.ports import Headroom

LOCK, CONSENT = "hold.lock", "consent"
"""Files in the folder of updates: one that an application may lock, one that a person's word makes."""


class SwitchConditions:
    """Says why not now.

    Args:
        folder: of updates.
        headroom: of the board.
    """

    def __init__(self, folder: Path, headroom: Headroom) -> None:
        self._folder, self._headroom = folder, headroom

    def held(self, policy: Policy, digest: str, local: datetime, since_s: float) -> str:
        """Why an update waits; empty = it may go on.

        Args:
            policy: of the assignment.
            digest: of the release, which a person's word must name.
            local: the device's own time of day.
            since_s: for how long it has waited.
        """
        if policy.window is not None and not within(policy.window, local.time()):
            return f"window {policy.window}, now is {local:%H:%M}"
        if policy.ask and not self._consents(digest):
            return "a person's word: `edgetrt update confirm`"
        if since_s < policy.lock_max_s and _locked(self._folder / LOCK):
            return f"the application's lock, for {policy.lock_max_s:.0f} s at most"
        return self._headroom.lacking()

    def _consents(self, digest: str) -> bool:
        path = self._folder / CONSENT
        return path.exists() and path.read_text("ascii").strip() == digest


def within(window: str, now: time) -> bool:
    """Whether a time of day is in `HH:MM-HH:MM`, which may reach over midnight.

    Raises:
        ConfigError: not a window.
    """
    try:
        begin, end = (time.fromisoformat(part) for part in window.split("-"))
    except ValueError as error:
        raise ConfigError(f"window {window!r}: {error}", "For example 02:00-04:00.") from error
    if begin <= end:
        return begin <= now < end
    return now >= begin or now < end


def _locked(path: Path) -> bool:
    """Whether a process holds the lock file; one that ended holds nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
