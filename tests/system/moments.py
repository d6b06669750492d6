"""Moments of an update at which a process can be stopped, and then killed: drawn, met, written down."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgetrt.update.states import State

END = "END"
LABELS = (*(state.value for state in State), END)
"""In the order in which an update goes through them."""

WHO = ("agent", "runtime", "build", "all")
"""What is killed: one of the processes, or `all` of them and what they have started, as a plug does."""

_IDLE, _ARMED, _INSIDE, _MISSED, _STOPPED = range(5)
_LIBRARY = Path(__file__).with_name("moments.c")


@dataclass(frozen=True)
class Moment:
    """Where a process is stopped.

    Attributes:
        label: the state, or END.
        change: before the n-th change of the disk since the state was stored; None = by time.
        after_us: so long since then.
        who: is killed there.
    """

    label: str
    change: int | None
    after_us: int
    who: str

    def __str__(self) -> str:
        at = f"{self.after_us} us" if self.change is None else f"change {self.change}"
        return f"{self.label} {at} {self.who}"

    @classmethod
    def parse(cls, text: str) -> Moment:
        """The reverse of `str`."""
        label, *at, who = text.split()
        assert label in LABELS, text
        assert who in WHO, text
        if at[0] == "change":
            return cls(label, int(at[1]), -1, who)
        return cls(label, None, int(at[0]), who)


@dataclass(frozen=True)
class Span:
    """How long a process was in a state: changes of the disk, and time."""

    label: str
    changes: int
    us: int


class _Span(ctypes.Structure):
    _fields_ = (("state", ctypes.c_char * 16), ("changes", ctypes.c_int64), ("us", ctypes.c_int64))


class _Page(ctypes.Structure):
    _fields_ = (
        ("phase", ctypes.c_int32),
        ("spans", ctypes.c_int32),
        ("change", ctypes.c_int64),
        ("after_us", ctypes.c_int64),
        ("seen", ctypes.c_int64),
        ("since_us", ctypes.c_int64),
        ("wanted", ctypes.c_char * 16),
        ("state", ctypes.c_char * 16),
        ("span", _Span * 64),
    )


def compiled(folder: Path) -> Path:
    """The library that goes before libc."""
    path = folder / "moments.so"
    options = ["-shared", "-fPIC", "-O1", "-ldl", "-lpthread"]
    subprocess.run(["cc", str(_LIBRARY), *options, "-o", str(path)], check=True)
    return path


class Stopper:
    """Lets a process that stands on the library stop at a moment.

    Args:
        page: file that is shared with it; made here.
        library: from `compiled`.
        below: the folder of updates.
    """

    def __init__(self, page: Path, library: Path, below: Path) -> None:
        page.write_bytes(bytes(mmap.PAGESIZE))
        with page.open("r+b") as file:
            self._page = _Page.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(_Page)))
        self.environment = {
            "LD_PRELOAD": str(library),
            "EDGETRT_MOMENT": str(page),
            "EDGETRT_MOMENT_BELOW": str(below),
        }

    @property
    def label(self) -> str:
        """The state that was stored last."""
        return str(self._page.state.decode())

    def arm(self, moment: Moment) -> None:
        """Stop the process there, when it comes by."""
        self._page.phase = _IDLE
        self._page.change = -1 if moment.change is None else moment.change
        self._page.after_us = moment.after_us
        self._page.wanted = moment.label.encode()
        self._page.phase = _ARMED

    def met(self, moment: Moment, within_s: float, look: Callable[[], None]) -> bool | None:
        """Wait until the process has stopped; False when it has passed by, None when neither happens.

        Args:
            moment: that was armed.
            within_s: how long to wait.
            look: called all the time; raises when there is nothing to wait for.
        """
        deadline, passed = time.monotonic() + within_s, 0
        while time.monotonic() < deadline:
            if self._page.phase == _STOPPED:
                return True
            passed = passed + 1 if self._passed(moment) else 0
            if passed > 5:  # else it is about to enter that state
                self._page.phase = _IDLE
                return False
            look()
            time.sleep(0.002)
        return None

    def _passed(self, moment: Moment) -> bool:
        if self._page.phase == _ARMED and self.label:
            beyond = LABELS.index(self.label) - LABELS.index(moment.label)
            return beyond > 0 or self.label == END
        return bool(self._page.phase == _MISSED)

    def forget(self) -> None:
        """Another update begins: no state of it was stored yet."""
        self._page.phase, self._page.state = _IDLE, b""

    def spans(self) -> list[Span]:
        """How long each state took since the last call, the last one left out."""
        count = self._page.spans
        found = [self._page.span[n % 64] for n in range(max(0, count - 64), count)]
        self._page.spans = 0
        return [Span(one.state.decode(), one.changes, one.us) for one in found]


def builds(pid: int) -> bool:
    """Whether a process is a part of a build."""
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b"build" in command or b"edgetrt.deploy.rehearsal" in command
    return False


def descendants(pid: int) -> list[int]:
    """Every process below one, the nearest first."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
