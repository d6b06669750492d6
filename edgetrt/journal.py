"""What this process says, and fields by which `journalctl` finds it: `journalctl EDGETRT_PIPELINE=street`.

systemd's journal keeps fields beside a message. They get there through systemd-python where that is
installed; without it priorities do, as prefixes that systemd reads (sd-daemon(3)). On a terminal nothing is
different from any other program.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping

NAME = "edgetrt"
"""Of our loggers, and what the journal calls us."""

PIPELINE, ENGINE, EVENT = "EDGETRT_PIPELINE", "EDGETRT_ENGINE", "EDGETRT_EVENT"

_here = threading.local()
_STDERR = 2


def fields(*, pipeline: str = "", engine: str = "", event: str = "") -> dict[str, str]:
    """Fields of one line, as in `log.info("…", extra=fields(pipeline="street"))`; empty ones are left out."""
    named = {PIPELINE: pipeline, ENGINE: engine, EVENT: event}
    return {name: value for name, value in named.items() if value}


def note(*, pipeline: str = "", engine: str = "") -> None:
    """Fields of every line of this thread from now on."""
    _here.__dict__.update(fields(pipeline=pipeline, engine=engine))


class ThreadFields(logging.Filter):
    """Adds what this thread noted to what the line says itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every line pass."""
        for name, value in _here.__dict__.items():
            record.__dict__.setdefault(name, value)
        return True


class Prefixed(logging.Formatter):
    """A line with its priority in front, for a service manager that reads standard error."""

    def format(self, record: logging.LogRecord) -> str:
        """`<4>` is a warning; each line of a text gets the prefix."""
        text = super().format(record).splitlines() or [""]
        return "\n".join(f"<{_priority(record.levelno)}>{line}" for line in text)


def _priority(level: int) -> int:
    """syslog(3)'s number of a level: 7 debug, 6 info, 4 warning, 3 error, 2 critical."""
    steps = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
    return next((number for least, number in steps if level >= least), 7)


def set_up(level: int, environment: Mapping[str, str] = os.environ) -> None:
    """Say what happens, to the journal when standard error is it, else on standard error.

    Args:
        level: from which on. In the journal what happens is told in any case: nobody sits in front of it.
        environment: where systemd names its stream.
    """
    if is_journal(environment, _STDERR):
        handler = _journal() or _prefixed()
        logging.getLogger(NAME).setLevel(min(level, logging.INFO))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    handler.addFilter(ThreadFields())
    logging.basicConfig(level=level, handlers=[handler])


def is_journal(environment: Mapping[str, str], descriptor: int) -> bool:
    """Whether a descriptor is the journal's stream that systemd gave to this process (systemd.exec(5))."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _journal() -> logging.Handler | None:
    """systemd-python's handler; None where it is not installed."""
    try:
        from systemd.journal import JournalHandler
    except ImportError:
        return None
    handler: logging.Handler = JournalHandler(SYSLOG_IDENTIFIER=NAME)
    handler.setFormatter(logging.Formatter("%(message)s"))  # the rest is in fields
    return handler


def _prefixed() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(Prefixed("%(name)s: %(message)s"))
    return handler
