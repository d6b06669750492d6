"""Building in another process, so that running out of memory there cannot stop what runs here."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from edgetrt import errors
from edgetrt.engine import memory
from edgetrt.engine.events import Built, Failed, LogLine, Progress, from_line
from edgetrt.engine.plan import HEADER_SIZE, PlanHeader, read_header
from edgetrt.engine.spec import encode
from edgetrt.errors import EdgetrtError, EngineBuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from edgetrt.engine.spec import BuildSpec

BUILDER = (sys.executable, "-m", "edgetrt.backends.build_process")
StopReason = Literal["cancelled", "timeout", "memory"]
_TICK_S = 0.1


@dataclass(frozen=True)
class BuildResult:
    """A plan that was written, and all that is known of it."""

    plan: Path
    header: PlanHeader
    built: Built
    log: tuple[LogLine, ...]


@dataclass(frozen=True)
class Limits:
    """When a build is stopped.

    Attributes:
        timeout_s: after so long.
        grace_s: how long it may take to stop by itself when asked to.
        floor_bytes: when less memory than this is free; 0 switches the guard off.
        available: gives the free memory, None when it is not known.
        oom_kills: gives the kernel's count of processes killed for memory.
    """

    timeout_s: float = 7200.0
    grace_s: float = 5.0
    floor_bytes: int = field(default_factory=memory.floor_bytes)
    available: Callable[[], int | None] = memory.available_bytes
    oom_kills: Callable[[], int | None] = memory.oom_kills


@dataclass(frozen=True)
class Death:
    """How a build process ended without a plan.

    Attributes:
        status: its exit status, negative for a signal.
        stop: why we stopped it, if we did.
        said: its last words on stderr.
        phase: what it was doing.
        oom_kills: processes that the kernel killed for memory meanwhile.
        free_bytes: free memory when the guard stopped it.
    """

    status: int
    stop: StopReason | None = None
    said: str = ""
    phase: str = ""
    oom_kills: int = 0
    free_bytes: int = 0


@dataclass
class _Run:
    """What has been heard from the process so far."""

    log: list[LogLine] = field(default_factory=list)
    built: Built | None = None
    failed: Failed | None = None
    phase: str = "starting"
    stop: StopReason | None = None
    free_bytes: int = 0


def build(
    spec: BuildSpec,
    plan: Path,
    on_progress: Callable[[Progress], None] = lambda _: None,
    cancel: threading.Event | None = None,
    limits: Limits | None = None,
    command: Sequence[str] = BUILDER,
) -> BuildResult:
    """Build `spec` into the file `plan` and wait for it.

    Args:
        spec: what to build; open memory limits are filled from the memory that is free.
        plan: where the plan goes; nothing is there when the build fails.
        on_progress: called from this thread.
        cancel: set it from another thread to stop the build.
        limits: when to stop it.
        command: the build process; gets PLAN and the number of a file descriptor for its events.

    Raises:
        EdgetrtError: what the build process raised, of the same class.
        EngineBuildError: it was stopped, killed, or crashed; with what to do.
    """
    limits = limits or Limits()
    free = limits.available()
    pools = memory.plan_pools(free) if spec.dla is not None else {}
    spec = spec.with_limits(memory.plan_workspace(free), pools)
    kills = limits.oom_kills()
    with tempfile.TemporaryFile() as stderr:
        run, status = _attend(
            spec, plan, on_progress, cancel or threading.Event(), limits, command, stderr
        )
        if run.built is not None and status == 0:
            with plan.open("rb") as file:
                header = read_header(file.read(HEADER_SIZE), str(plan))
            return BuildResult(plan, header, run.built, tuple(run.log))
        said = _tail(stderr)
    with contextlib.suppress(OSError):  # what kept it from being written is told below
        plan.unlink()
    if run.failed is not None and run.stop is None:
        raise reraise(run.failed)
    more = (limits.oom_kills() or 0) - (kills or 0)
    raise classify(Death(status, run.stop, said, run.phase, more, run.free_bytes))


def reraise(failed: Failed) -> EdgetrtError:
    """Make the error of the build process again, of the same class."""
    kind = getattr(errors, failed.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, EdgetrtError)):
        kind = EngineBuildError
    return kind(failed.message, failed.hint)


def classify(death: Death) -> EngineBuildError:
    """Say in words how the build process died, and what helps."""
    while_ = f" while {death.phase}" if death.phase else ""
    said = f": {death.said}" if death.said else ""
    lower = (
        "Stop other programs and the desktop, then build again with a smaller workspace, a lower"
        " optimization level or a smaller input."
    )
    if death.stop == "cancelled":
        return EngineBuildError(f"the build was cancelled{while_}")
    if death.stop == "timeout":
        return EngineBuildError(
            f"the build took too long and was stopped{while_}",
            "Give it more time, or build at a lower optimization level.",
        )
    if death.stop == "memory":
        return EngineBuildError(
            f"only {death.free_bytes // memory.MIB} MiB of memory were left: the build was"
            f" stopped{while_} before the kernel had to kill something",
            lower,
        )
    if death.status == -9:
        who = "the kernel killed it for memory" if death.oom_kills > 0 else "something killed it"
        return EngineBuildError(f"the build died{while_}: {who} (SIGKILL)", lower)
    if memory.says_out_of_memory(death.said):
        return EngineBuildError(f"the build ran out of memory{while_}{said}", lower)
    if death.status in {-11, -6, -7, -4}:
        name = {-11: "SIGSEGV", -6: "SIGABRT", -7: "SIGBUS", -4: "SIGILL"}[death.status]
        return EngineBuildError(
            f"the build crashed{while_} ({name}){said}",
            "A fault inside TensorRT or a driver: try a lower optimization level, and keep the log"
            " for a report.",
        )
    if death.status < 0:
        return EngineBuildError(f"the build was ended by signal {-death.status}{while_}{said}")
    return EngineBuildError(
        f"the build process ended with status {death.status}{while_} and wrote no plan{said}",
        "Run `edgetrt doctor`.",
    )


def _attend(
    spec: BuildSpec,
    plan: Path,
    on_progress: Callable[[Progress], None],
    cancel: threading.Event,
    limits: Limits,
    command: Sequence[str],
    stderr: IO[bytes],
) -> tuple[_Run, int]:
    """Start the process, listen until it ends, stop it when it must be."""
    read_fd, write_fd = os.pipe()
    try:
        process = subprocess.Popen(
            [*command, str(plan), str(write_fd)],
            bufsize=0,  # what a process that died at once did not read must not turn up at the close
            stdin=subprocess.PIPE,
            stdout=stderr,
            stderr=stderr,
            pass_fds=(write_fd,),
        )
    except OSError as error:
        os.close(read_fd)
        raise EngineBuildError(
            f"the build process {command[0]} cannot be started: {error.strerror}",
            "Install edgetrt again.",
        ) from error
    finally:
        os.close(write_fd)
    run = _Run()

    def on_low(free: int) -> None:
        run.stop, run.free_bytes = "memory", free
        process.kill()

    with process, os.fdopen(read_fd, "rb", buffering=0) as pipe:
        _order(process, spec)
        guard = memory.MemoryGuard(limits.available, limits.floor_bytes, on_low)
        try:
            with guard:
                _listen(process, pipe, run, on_progress, cancel, limits)
                status = process.wait()
        except BaseException:  # Ctrl-C, or whoever shows the progress failed: leave no build behind
            process.kill()
            raise
    return run, status


def _order(process: subprocess.Popen[bytes], spec: BuildSpec) -> None:
    """Hand over the order; the pipe stays open, its end tells the process that we are gone."""
    assert process.stdin is not None  # noqa: S101 - for the type checker: it was asked for above
    try:
        process.stdin.write(encode(spec) + b"\n")
    except BrokenPipeError:
        return  # it died at once; its status says how


def _listen(
    process: subprocess.Popen[bytes],
    pipe: IO[bytes],
    run: _Run,
    on_progress: Callable[[Progress], None],
    cancel: threading.Event,
    limits: Limits,
) -> None:
    """Take events until the process closes its end; ask it to stop, then make it."""
    deadline, last = time.monotonic() + limits.timeout_s, float("inf")
    for line in _lines(pipe):
        if line:
            _take(line, run, on_progress)
        now = time.monotonic()
        if run.stop is None and (cancel.is_set() or now > deadline):
            run.stop = "cancelled" if cancel.is_set() else "timeout"
            last = now + limits.grace_s
            process.terminate()
        if now > last:
            process.kill()
            last = float("inf")


def _lines(pipe: IO[bytes]) -> Iterator[bytes]:
    """Lines as they come, and an empty one at least every tick; ends with the pipe."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if selector.select(_TICK_S):
                chunk = pipe.read(1 << 16)
                if not chunk:
                    return
                *whole, rest = (rest + chunk).split(b"\n")
                yield from whole
            yield b""


def _take(line: bytes, run: _Run, on_progress: Callable[[Progress], None]) -> None:
    event = from_line(line)
    if isinstance(event, Progress):
        run.phase = event.phase
        on_progress(event)
    elif isinstance(event, LogLine):
        run.log.append(event)
    elif isinstance(event, Built):
        run.built = event
    elif isinstance(event, Failed):
        run.failed = event


def _tail(file: IO[bytes], most: int = 600) -> str:
    """The last words of a log file, on one line."""
    file.seek(max(file.seek(0, os.SEEK_END) - most, 0))
    return " ".join(file.read().decode("utf-8", "replace").split())
