"""What time it is, as far as that can be trusted: without a clock no expiry means anything."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from edgetrt.errors import UnreachableError
from edgetrt.update import durable

BUILT = datetime(2026, 11, 1, tzinfo=timezone.utc)
"""No device that runs this can live before it."""

_MOST_ERROR_US = 16_000_000  # above it the kernel itself calls its clock unsynchronised
_TIMESYNC = Path("/run/systemd/timesync/synchronized")


class WallClock(Protocol):
    """The device's calendar."""

    def now(self) -> datetime:
        """UTC."""

    def synchronized(self) -> bool:
        """Whether a time source has set it since boot."""


class SystemWallClock:
    """The machine's own; `trusted` says that a person vouches for it where no time source is."""

    def __init__(self, trusted: bool = False) -> None:
        self._trusted = trusted

    def now(self) -> datetime:
        """UTC."""
        return datetime.now(timezone.utc)

    def synchronized(self) -> bool:
        """Whether a time source has set it, by systemd's or the kernel's word."""
        return self._trusted or _TIMESYNC.exists() or _kernel_synchronized()


@dataclass(frozen=True)
class Bound:
    """The newest time that is known to be past, kept in a file.

    It grows with what verified metadata tells and with the clock itself, but only after metadata has
    held against that clock: a clock that runs ahead cannot push it further than metadata is valid.
    """

    path: Path

    def check(self, clock: WallClock) -> datetime:
        """The time now, when it can be trusted.

        Raises:
            UnreachableError: it cannot, for now; updates wait and inference goes on.
        """
        now, least = clock.now(), self.get()
        if not clock.synchronized():
            raise _held("not set by any time source since boot", "unsynced")
        if now < least:
            told = f"{now:%Y-%m-%d %H:%M} UTC, but it was {least:%Y-%m-%d %H:%M} UTC already"
            raise _held(told, "clock")
        return now

    def get(self) -> datetime:
        """The bound; the build's own when nothing was ever kept."""
        try:
            kept = datetime.fromisoformat(self.path.read_text("ascii").strip())
            return max(kept, BUILT)
        except (OSError, ValueError, TypeError):
            return BUILT

    def raise_to(self, *times: datetime) -> None:
        """Keep the newest of these, when it is newer than what was kept by a minute or more."""
        newest = max(times)
        if (newest - self.get()).total_seconds() >= 60:
            durable.replace(self.path, newest.isoformat().encode("ascii"))


def _held(what: str, code: str) -> UnreachableError:
    return UnreachableError(
        f"clock: {what}; updates wait for it",
        "Let the device reach a time server; where there is none, set its clock and"
        " update.trust_clock: true.",
        code,
    )


def _kernel_synchronized() -> bool:
    """adjtimex(2): the kernel's estimate of how wrong its clock is."""
    buffer = ctypes.create_string_buffer(512)  # struct timex has 208 bytes at most
    try:
        failed = ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0
    except AttributeError:
        return False
    long = ctypes.sizeof(ctypes.c_long)
    (error_us,) = struct.unpack_from("l", buffer, 3 * long)  # after modes, offset, freq
    return not failed and int(error_us) < _MOST_ERROR_US
