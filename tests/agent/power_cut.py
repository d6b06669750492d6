"""What a disk may hold after a power cut: a process's writes, recorded by strace and replayed in part.

A write that was followed by a sync of its file is on the disk, a name that was removed and followed by one
of its folder is gone. What was not may be there, or not, or up to some sector, whatever became of those
before and after it.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CALLS = "openat,close,pwrite64,write,ftruncate,fsync,fdatasync,unlink"
SECTOR = 512

_LINE = re.compile(r"(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True)
class Event:
    """One change: `what` is write, truncate, sync, unlink, or `told` for a byte on standard output."""

    what: str
    path: str = ""
    at: int = 0
    data: bytes = b""


def record(command: Sequence[str], folder: Path, log: Path) -> list[Event]:
    """Run a Python program and note what it does to the files in a folder."""
    strace = [
        "strace",
        "-f",
        "-qq",
        "-xx",
        "-s",
        "10000000",
        "-e",
        f"trace={CALLS}",
        "-o",
        str(log),
    ]
    subprocess.run([*strace, sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return parse(log.read_text("ascii").splitlines(), folder)


def parse(lines: Sequence[str], folder: Path) -> list[Event]:
    """Read strace's lines; calls that failed changed nothing."""
    events: list[Event] = []
    paths: dict[int, str] = {}
    for line in lines:
        found = _LINE.match(line)
        if found is None or int(found[3]) < 0:
            continue
        call, arguments, result = found[1], found[2], int(found[3])
        texts = [bytes.fromhex(text.replace("\\x", "")) for text in _TEXT.findall(arguments)]
        numbers = [int(n) for n in re.findall(r"(?:^|, )(\d+)", _TEXT.sub('""', arguments))]
        if call in ("openat", "unlink"):
            path = texts[0].decode()
            inside = folder in (Path(path), Path(path).parent)
            if call == "unlink" and inside:
                events.append(Event("unlink", path))
            elif call == "openat":
                paths.pop(result, None)
                if inside:
                    paths[result] = path
        elif call == "close":
            paths.pop(numbers[0], None)
        elif call == "write" and numbers[0] == 1:
            events.append(Event("told"))
        elif path := paths.get(numbers[0], ""):
            events.append(_change(call, path, texts, numbers))
    return events


def _change(call: str, path: str, texts: Sequence[bytes], numbers: Sequence[int]) -> Event:
    if call == "pwrite64":
        return Event("write", path, numbers[-1], texts[0])
    if call == "ftruncate":
        return Event("truncate", path, numbers[-1])
    if call in ("fsync", "fdatasync"):
        return Event("sync", path)
    raise AssertionError(f"{call} of {path}: not expected of a database")


def left(events: Sequence[Event], chance: random.Random) -> Mapping[str, bytes]:
    """Files as a power cut behind the last event may leave them."""
    synced = {event.path: index for index, event in enumerate(events) if event.what == "sync"}
    files: dict[str, bytearray] = {}
    keep = chance.choice((0.0, 0.5, 0.9, 1.0))
    for index, event in enumerate(events):
        holds = event.path if event.what != "unlink" else str(Path(event.path).parent)
        safe = index < synced.get(holds, -1)
        if event.what == "unlink" and (safe or chance.random() < keep):
            files.pop(event.path, None)
        elif event.what == "truncate" and (safe or chance.random() < keep):
            del files.setdefault(event.path, bytearray())[event.at :]
        elif event.what == "write" and (safe or chance.random() < keep):
            data = event.data
            if not safe and chance.random() < 0.1:
                data = data[: chance.randrange(0, len(data), SECTOR)]
            _put(files.setdefault(event.path, bytearray()), event.at, data)
    return {path: bytes(data) for path, data in files.items()}


def _put(file: bytearray, at: int, data: bytes) -> None:
    file.extend(bytes(max(0, at - len(file))))
    file[at : at + len(data)] = data
