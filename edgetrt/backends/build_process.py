"""The build process: reads an order, builds, writes the plan, tells how it goes.

    python -m edgetrt.backends.build_process PLAN EVENTS_FD < order.json

It is niced and first for the OOM killer, and it ends when its parent closes the order's pipe: a build
never outlives the one who asked for it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

from edgetrt.backends import tensorrt_api
from edgetrt.backends.tensorrt_build import build, replace_file
from edgetrt.engine.events import AnyEvent, Failed, to_line
from edgetrt.engine.spec import BuildSpec, decode
from edgetrt.errors import EdgetrtError, EngineBuildError

NICE = 10
_STDIN = 0
ABANDONED = 75
"""Exit status when the parent is gone (EX_TEMPFAIL)."""


class Events:
    """The pipe to the parent; what cannot be delivered is dropped, the parent is gone then."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def emit(self, event: AnyEvent) -> None:
        """Write one line whole; safe from any thread."""
        line = to_line(event)
        with self._lock, contextlib.suppress(BrokenPipeError):
            while line:
                line = line[os.write(self._fd, line) :]


def main(argv: list[str]) -> int:
    """Build as ordered on stdin; 0 when the plan is written, 1 when a `failed` event says why not."""
    plan, events = Path(argv[0]), Events(int(argv[1]))
    stop = threading.Event()
    _listen_for(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    step_back()
    try:
        order = _read_order()
        threading.Thread(target=_watch_parent, name="parent-watch", daemon=True).start()
        _build(decode(order), plan, events, stop)
    except EdgetrtError as error:
        events.emit(Failed(type(error).__name__, error.message, error.hint))
        return 1
    return 0


def _build(spec: BuildSpec, plan: Path, events: Events, stop: threading.Event) -> None:
    library = tensorrt_api.load()
    data, built = build(spec, library, events.emit, stop.is_set)
    try:
        replace_file(plan, data)
    except OSError as error:
        free = shutil.disk_usage(plan.parent).free if plan.parent.is_dir() else 0
        raise EngineBuildError(
            f"{plan}: cannot be written ({error.strerror}): {len(data)} bytes needed, {free} free",
            "Make room (`edgetrt engines gc`) and build again.",
        ) from error
    events.emit(built)


def step_back() -> None:
    """Leave the processor to the others, and be the first to go when memory ends."""
    os.nice(NICE)
    with contextlib.suppress(OSError):  # no /proc in some containers
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _listen_for(wanted: signal.Signals, stop: threading.Event) -> None:
    """Set `stop` on a signal, also while the main thread is inside TensorRT and runs no handlers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {wanted})

    def wait() -> None:
        signal.sigwait({wanted})
        stop.set()

    threading.Thread(target=wait, name="signal-watch", daemon=True).start()


def _read_order() -> bytes:
    """The first line of stdin, read without a buffer: the rest of it is watched, not read."""
    order = bytearray()
    while not order.endswith(b"\n") and (more := os.read(_STDIN, 1 << 16)):
        order += more
    return bytes(order)


def _watch_parent() -> None:
    """End with the parent: its end of our stdin closes when it dies."""
    while os.read(_STDIN, 1):
        pass
    os._exit(ABANDONED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
