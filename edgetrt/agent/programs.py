"""Other programs as short children: no shell, a group of their own, an end at the deadline."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgetrt.errors import EdgetrtError

_CHUNK = 65536
_OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")
"""What systemd says to this process and not to its children."""


@dataclass(frozen=True, slots=True)
class Done:
    """A child that ended by itself.

    Attributes:
        status: its exit code; negative = the signal that ended it.
        out: what it printed, as much as was wanted.
        err: the same of its other stream.
        cut: there was more.
    """

    status: int
    out: bytes
    err: bytes
    cut: bool


async def run(argv: Sequence[str], most_bytes: int = 1 << 20) -> Done:
    """Run a program and wait for its end; when this is cancelled, the program is killed.

    Raises:
        EdgetrtError: it cannot be started.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _OURS}
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            env=environment,
        )
    except OSError as error:
        raise EdgetrtError(f"{argv[0]}: cannot be started: {error.strerror or error}") from error
    _yield_to_others(process.pid)
    try:
        (out, cut), (err, _) = await asyncio.gather(
            _bounded(process.stdout, most_bytes), _bounded(process.stderr, most_bytes)
        )
        status = await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return Done(status, out, err, cut)


async def _bounded(stream: asyncio.StreamReader | None, most_bytes: int) -> tuple[bytes, bool]:
    """Read to the end and keep so much of it."""
    kept, cut = bytearray(), False
    while stream is not None and (chunk := await stream.read(_CHUNK)):
        kept += chunk[: most_bytes - len(kept)]
        cut = cut or len(kept) == most_bytes
    return bytes(kept), cut


def _yield_to_others(pid: int) -> None:
    """Let it run after everything else, and be the first to go when memory runs out."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, 15)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000", encoding="ascii")
