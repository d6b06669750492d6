"""Power modes, by the board's own table: nothing that a board may do is written here.

The table is `/etc/nvpmodel.conf`: `< PARAM TYPE=… NAME=x >` sections name files of the kernel, `< POWER_MODEL
ID=n NAME=s >` sections say what a mode writes there, `< PM_CONFIG DEFAULT=n >` which one a fresh board has
(https://github.com/NVIDIA/skills, jetson-customize-nvpmodel). NVIDIA's `nvpmodel` sets a mode; it asks for a
reboot, and waits for an answer, where another part of the GPU would have to be powered.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgetrt.boards.generic import read_text
from edgetrt.errors import BoardError, PowerModeError

TABLE = "etc/nvpmodel.conf"
STATUS = "var/lib/nvpmodel/status"
TOOL = "usr/sbin/nvpmodel"
LATEST = Path("/run/edgetrt-power/latest")

MASK = "PG_MASK"
"""In the name of every argument that powers parts of the GPU: `TPC_PG_MASK`, `FBP_PG_MASK`, …"""

LEAST_GAP_S = 60.0
"""Between two changes: a board takes seconds to settle, and so does what is measured on it."""

TOOL_S = 60.0

Argument = tuple[str, str]
"""Parameter and argument, as in `("TPC_POWER_GATING", "TPC_PG_MASK")`."""

_SECTION = re.compile(r"<\s*(\w+)((?:\s+\w+=\S+?)*)\s*>")
_NOW = re.compile(r"pmode:\s*(\d+)")


@dataclass(frozen=True, slots=True)
class PowerMode:
    """One mode of a board.

    Attributes:
        number: what `nvpmodel -m` wants; numbers may have gaps, and 0 is not always the fastest.
        name: what people say, such as `MODE_30W`, `15W`, `MAXN_SUPER`.
        writes: what it sets.
    """

    number: int
    name: str
    writes: Mapping[Argument, str] = field(default_factory=dict)

    def masks(self) -> dict[Argument, int]:
        """Which parts of the GPU it leaves without power."""
        found = {key: _integer(value) for key, value in self.writes.items() if MASK in key[1]}
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Table:
    """What a board's file says.

    Attributes:
        modes: in the order of the file.
        default: number of the mode of a fresh board.
        files: where an argument is written.
    """

    modes: tuple[PowerMode, ...]
    default: int | None = None
    files: Mapping[Argument, str] = field(default_factory=dict)

    def named(self, name: str) -> PowerMode:
        """The mode of that name.

        Raises:
            PowerModeError: this board has none.
        """
        for mode in self.modes:
            if mode.name == name:
                return mode
        known = ", ".join(mode.name for mode in self.modes)
        raise PowerModeError(f"power mode {name!r}: this board has none", f"One of {known}.")

    def numbered(self, number: int | None) -> PowerMode | None:
        """The mode of that number."""
        return next((mode for mode in self.modes if mode.number == number), None)


def parse(text: str) -> Table:
    """Read a table; what is no power mode of the board is passed over.

    Raises:
        BoardError: no mode, or two with one number or one name.
    """
    files: dict[Argument, str] = {}
    modes: list[PowerMode] = []
    default = None
    for kind, words, rows in _sections(text):
        if kind == "PARAM":
            parameter = words.get("NAME", "")
            files.update({(parameter, row[0]): row[1] for row in rows if len(row) == 2})
        elif kind == "POWER_MODEL" and words.get("ID", "").isdecimal() and "NAME" in words:
            writes = {(row[0], row[1]): row[2] for row in rows if len(row) == 3}
            modes.append(PowerMode(int(words["ID"]), words["NAME"], writes))
        elif kind == "PM_CONFIG" and words.get("DEFAULT", "").isdecimal():
            default = int(words["DEFAULT"])
    _check(modes)
    return Table(tuple(modes), default, files)


def _sections(text: str) -> Iterator[tuple[str, dict[str, str], list[list[str]]]]:
    """Kind, `KEY=value` words and rows of each section."""
    kind, words, rows = "", dict[str, str](), list[list[str]]()
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        head = _SECTION.fullmatch(line)
        if head is None:
            rows.append(line.split())
            continue
        yield kind, words, rows
        kind, rows = head[1], []
        words = dict(word.split("=", 1) for word in head[2].split())
    yield kind, words, rows


def _check(modes: list[PowerMode]) -> None:
    if not modes:
        raise BoardError(f"/{TABLE}: no power mode in it", "Is it the board's own file?")
    for what in ("number", "name"):
        seen = [getattr(mode, what) for mode in modes]
        twice = sorted({str(value) for value in seen if seen.count(value) > 1})
        if twice:
            raise BoardError(
                f"/{TABLE}: two power modes of {what} {', '.join(twice)}",
                "Restore the file that Jetson Linux came with.",
            )


def _integer(text: str) -> int | None:
    """A mask is written in decimal or, by some kernels, in hexadecimal."""
    try:
        return int(text.strip(), 0)
    except ValueError:
        return None


def number(root: Path = Path("/")) -> int | None:
    """Number of the mode the board is in; None when it does not tell."""
    found = _NOW.search(read_text(root / STATUS) or "")
    return int(found[1]) if found else None


class Power:
    """The power modes of this board.

    Args:
        root: where `/etc`, `/sys`, `/var` and `nvpmodel` are looked for.
        latest: file that remembers when a mode was set last, by the monotonic clock.

    Attributes:
        table: what the board can do.

    Raises:
        BoardError: this machine has no table, or not a right one.
    """

    def __init__(self, root: Path = Path("/"), latest: Path = LATEST) -> None:
        self._root = root
        self._latest = latest
        text = read_text(root / TABLE)
        if text is None:
            raise BoardError(
                f"/{TABLE}: not there or not readable: this machine has no power modes",
                "Jetson boards have it, from the package nvidia-l4t-nvpmodel.",
            )
        self.table = parse(text)

    def current(self) -> PowerMode | None:
        """The mode that the board is in; None when it does not tell, or tells one it does not have."""
        return self.table.numbered(number(self._root))

    def reboot(self, mode: PowerMode) -> list[str]:
        """Why a mode cannot be entered without a reboot; empty when it can.

        What the kernel says counts, and where it says nothing, the table's row of the present mode.
        """
        present = self.current()
        before = present.masks() if present else {}
        reasons = []
        for argument, wanted in mode.masks().items():
            told = _integer(read_text(self._at(self.table.files.get(argument, ""))) or "")
            mask = told if told is not None else before.get(argument)
            if mask != wanted:
                reasons.append(
                    f"{argument[1]} is {'not known' if mask is None else mask}, not {wanted}"
                )
        return reasons

    def set(self, name: str, now_ns: int) -> bool:
        """Enter a mode; returns False when the board was in it already.

        Args:
            name: of the mode.
            now_ns: monotonic time.

        Raises:
            PowerModeError: there is none of that name, it needs a reboot, the last change was a moment
                ago, or the board is not in it afterwards.
            BoardError: `nvpmodel` cannot be run.
        """
        mode = self.table.named(name)
        if mode == self.current():
            return False
        if reasons := self.reboot(mode):
            raise PowerModeError(
                f"power mode {name}: needs a reboot: {', '.join(reasons)}",
                f"sudo nvpmodel -m {mode.number}, and answer its question with yes.",
            )
        self._wait_over(name, now_ns)
        said = self._run(mode)
        after = number(self._root)
        if after != mode.number:
            raise PowerModeError(
                f"power mode {name}: nvpmodel ran, and the board is in number {after}, not {mode.number}"
                f"{': ' if said else ''}{said}"
            )
        return True

    def _wait_over(self, name: str, now_ns: int) -> None:
        """Refuse what comes too soon; what is let through is remembered before it is done."""
        before = _integer(read_text(self._latest) or "")
        since_s = float("inf") if before is None else (now_ns - before) / 1e9
        if 0 <= since_s < LEAST_GAP_S:
            raise PowerModeError(
                f"power mode {name}: the last change was {since_s:.0f} s ago, at least {LEAST_GAP_S:.0f}",
                f"Try again in {LEAST_GAP_S - since_s:.0f} s.",
            )
        try:
            self._latest.parent.mkdir(parents=True, exist_ok=True)
            self._latest.write_text(f"{now_ns}\n", encoding="ascii")
        except OSError as error:
            raise BoardError(
                f"{self._latest}: cannot be written: {error.strerror}",
                "A power mode is set by root: sudo edgetrt power set …",
            ) from error

    def _run(self, mode: PowerMode) -> str:
        """Let `nvpmodel` set it; returns the end of what it said. It gets nothing to answer with."""
        command = [str(self._root / TOOL), "-m", str(mode.number)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TOOL_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BoardError(f"nvpmodel: cannot be run: {error}") from error
        said = " ".join((done.stdout + done.stderr).decode("utf-8", "replace").split())[-300:]
        if done.returncode:
            raise PowerModeError(
                f"power mode {mode.name}: nvpmodel ended with {done.returncode}: {said}"
            )
        return said

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")
