"""What TensorRT calls back into: the log, the progress and the scales.

The classes are made from the module that is given, because their bases live there.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from edgetrt.backends import tensorrt_log
from edgetrt.backends.tensorrt_progress import PhaseTree
from edgetrt.engine.events import LogLine, Progress
from edgetrt.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgetrt.engine.events import AnyEvent

_SEVERITIES = {
    "INTERNAL_ERROR": "error",
    "ERROR": "error",
    "WARNING": "warning",
    "INFO": "info",
    "VERBOSE": "verbose",
}
_LEAST_STEP = 0.005


class BuildLog:
    """Keeps the log of a build but for its verbose lines, and passes it on.

    Args:
        emit: takes the lines.
        tell_steps: read the steps of the build from the log; for versions that have no progress
            monitor (before 10.0).

    Attributes:
        lines: so far.
        calm: set once the plan is there: from then on an error is no fault of the build.
    """

    def __init__(self, emit: Callable[[AnyEvent], None], tell_steps: bool) -> None:
        self.lines: list[LogLine] = []
        self.calm = False
        self._emit = emit
        self._tell_steps = tell_steps
        self._step: str | None = None
        self._lock = threading.Lock()

    def add(self, severity: str, text: str) -> None:
        """Take one line; safe from any thread."""
        with self._lock:
            step = tensorrt_log.step(text) if self._tell_steps else None
            if step is not None and step != self._step:
                self._step = step
                self._emit(Progress(step))
            if severity != "verbose":
                if self.calm and severity == "error":
                    severity = "info"
                line = LogLine(severity, text)
                self.lines.append(line)
                self._emit(line)


def make_logger(trt: Any, lines: BuildLog) -> Any:
    """A TensorRT logger that writes into `lines`."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            lines.add(_SEVERITIES.get(severity.name, "info"), msg)

    return Logger()


def make_monitor(
    trt: Any,
    emit: Callable[[AnyEvent], None],
    cancelled: Callable[[], bool],
) -> Any:
    """A progress monitor (from TensorRT 10 on); its answers end a build that was cancelled."""
    tree, shown, lock = PhaseTree(), [-1.0], threading.Lock()

    def tell(name: str, fraction: float) -> None:
        with lock:
            if fraction - shown[0] < _LEAST_STEP and fraction < 1.0:
                return
            if fraction == shown[0]:
                return
            shown[0] = fraction
        emit(Progress(name, round(fraction, 4)))

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            tree.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            tell(phase_name, tree.step(phase_name, step))
            return not cancelled()

        def phase_finish(self, phase_name: str) -> None:
            tell(phase_name, tree.finish(phase_name))

    return Monitor()


def make_calibrator(trt: Any, cache: Path) -> Any:
    """A calibrator that has no data and reads all scales from a cache file (up to TensorRT 10).

    Raises:
        ModelError: the file cannot be read or is no calibration cache.
    """
    try:
        scales = cache.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{cache}: calibration cache cannot be read: {error.strerror}", "Calibrate again."
        ) from error
    if not (scales.startswith(b"TRT-") and b"Calibration" in scales.partition(b"\n")[0]):
        raise ModelError(
            f"{cache}: begins with {scales[:32]!r}, expected TRT-<version>-EntropyCalibration2",
            "This is no calibration cache: calibrate again.",
        )

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            """No data: every tensor's scale is in the cache."""

        def read_calibration_cache(self) -> bytes:
            return scales

        def write_calibration_cache(self, cache: Any) -> None:
            """Nothing was measured, so there is nothing to keep."""

    return Calibrator()
