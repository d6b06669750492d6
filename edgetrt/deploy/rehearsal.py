"""An engine of a release, tried out in a process of its own, beside whatever serves.

It is loaded, run once, and asked its golden inputs. Native code that crashes, hangs or takes too much memory
ends that process and nothing else, and what does not fit beside the running engines is found before the
switch, which will need the same room.

    python -m edgetrt.deploy.rehearsal < trial.json > answer.json
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgetrt.children import PARENT, follow_parent
from edgetrt.config import RecipeConfig
from edgetrt.engine.active import Deployed
from edgetrt.errors import ConfigError, EdgetrtError, ModelError
from edgetrt.update.built import Failure
from edgetrt.update.record import Check
from edgetrt.update.release import Bands, Golden

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgetrt.ports import Device, Session
    from edgetrt.runtime.reading import Reading

    Tensors = Mapping[str, NDArray[np.generic]]

WITHIN_S = 900.0
"""How long loading an engine and asking it may take."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What to try.

    Attributes:
        name: of the pipeline.
        engine: in the cache.
        folder: of the release, where the golden files are.
        golden: inputs with expected outputs.
        bands: what the release promises.
    """

    name: str
    engine: Deployed
    folder: str
    golden: tuple[Golden, ...] = ()
    bands: Bands = Bands()


class Rehearsed(msgspec.Struct, frozen=True, kw_only=True):
    """What was found; `failure` is why it ended before its end."""

    checks: tuple[Check, ...] = ()
    memory_mb: float | None = None
    first_ms: float | None = None
    failure: Failure | None = None


def rehearse(trial: Trial, within_s: float = WITHIN_S) -> Rehearsed:
    """Try an engine in a process of its own; whatever happens to that is told."""
    command = [sys.executable, "-m", "edgetrt.deploy.rehearsal"]
    try:
        done = subprocess.run(
            command,
            input=msgspec.json.encode(trial),
            stdout=subprocess.PIPE,
            env={**os.environ, PARENT: str(os.getpid())},
            timeout=within_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        told = f"pipeline {trial.name!r}: its engine did not answer within {within_s:.0f} s"
        return Rehearsed(failure=Failure(code="hung", message=told, hint="It was not switched to."))
    if done.returncode:
        return Rehearsed(failure=died(f"pipeline {trial.name!r}: its engine", done.returncode))
    return msgspec.json.decode(done.stdout, type=Rehearsed)


def died(what: str, status: int) -> Failure:
    """Why a child process of ours ended, by its exit status; negative = a signal."""
    if status == -signal.SIGKILL:
        return Failure(
            code="memory",
            message=f"{what} was killed while it was tried: most likely it needs more memory than "
            "there is beside what serves",
            hint="Use a smaller network or another precision; what served goes on serving.",
        )
    how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return Failure(
        code="crashed",
        message=f"{what} crashed in native code when it was tried: {how}",
        hint="What served goes on serving; see the log of the build for its last words.",
    )


def failure_of(error: EdgetrtError) -> Failure:
    """An error as a release's failure; its code is the error's own, or its kind."""
    kind = type(error).__name__.removesuffix("Error").lower()
    return Failure(code=getattr(error, "code", "") or kind, message=error.message, hint=error.hint)


def main() -> int:
    """Read a trial, try it, answer; what libraries print goes to the log."""
    follow_parent()
    answer = os.dup(1)
    os.dup2(2, 1)
    trial = msgspec.json.decode(sys.stdin.buffer.read(), type=Trial)
    try:
        found = try_out(trial)
    except EdgetrtError as error:
        found = Rehearsed(failure=failure_of(error))
    with os.fdopen(answer, "wb") as out:
        out.write(msgspec.json.encode(found))
    return 0


def try_out(trial: Trial) -> Rehearsed:
    """Load the engine, run it, ask it.

    Raises:
        EdgetrtError: it does not load or run.
    """
    session, reading, gpu_mb = _open(trial.engine)
    try:
        reading.task()  # it can be read as what the recipe says it is
        start = time.perf_counter()
        session.infer()
        first_ms = round((time.perf_counter() - start) * 1e3, 3)
        asked = [_ask(session, Path(trial.folder), golden) for golden in trial.golden]
        memory_mb = round(_resident_mb() + gpu_mb(), 1)
    finally:
        session.close()
    checks = [
        *(compare(golden, *pair) for golden, pair in zip(trial.golden, asked, strict=True)),
        *_accuracy(trial.bands.accuracy_min, reading, asked),
        *_memory(trial.bands.memory_mb_max, memory_mb),
    ]
    return Rehearsed(checks=tuple(checks), memory_mb=memory_mb, first_ms=first_ms)


def _open(engine: Deployed) -> tuple[Session, Reading, Callable[[], float]]:
    """Load an engine of the cache by itself, and what tells the GPU memory that it took since."""
    from edgetrt import app
    from edgetrt.engine.cache import Cache, default_root
    from edgetrt.engine.recipe import Recipe
    from edgetrt.engine.report import NETWORK
    from edgetrt.runtime.reading import Reading

    entry = Cache(default_root()).open(engine.fingerprint)
    network = entry.path.with_name(NETWORK)
    config = RecipeConfig(model=str(network), task=engine.task, preprocess=engine.preprocess)
    reading = Reading.of(Recipe(network, network, config))
    if engine.backend != "tensorrt":
        backend = app.backends()[engine.backend]()
        return backend.load(entry.path, engine.threads, reading.shapes), reading, lambda: 0.0
    plans = app.tensorrt_backend(engine.dla)
    before = _free_mb(plans.device)
    session = plans.deserialize(entry.data, engine.model, reading.shapes)
    return session, reading, lambda: max(0.0, before - _free_mb(plans.device))


def _free_mb(device: Device) -> float:
    device.push()
    try:
        return device.memory()[0] / 1e6
    finally:
        device.pop()


def _resident_mb() -> float:
    """The most that this process ever held; unlike getrusage(2), it knows nothing of the parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def compare(golden: Golden, expected: Tensors, found: Tensors) -> Check:
    """Hold an engine's answer against the expected one.

    The difference is the largest of one value, relative to the largest expected one of that output.
    """
    import numpy as np

    worst, where = 0.0, ""
    limit = f"within {golden.tolerance:.2%} of the largest"
    name = f"golden {golden.input}"
    for output, wanted in expected.items():
        values = found.get(output)
        if values is None or values.shape != wanted.shape:
            got = "no such output" if values is None else f"shape {list(values.shape)}"
            told = f"{output}: {got}, expected {list(wanted.shape)}"
            return Check(name=name, ok=False, value=told, limit=limit)
        a, b = values.astype(np.float64), wanted.astype(np.float64)
        largest = float(np.abs(b).max(initial=0.0)) or 1.0
        off = float(np.abs(a - b).max(initial=0.0)) / largest
        if math.isnan(off):
            return Check(name=name, ok=False, value=f"{output}: off by nan", limit=limit)
        if off > worst:
            worst, where = off, output
    value = f"{where}: off by {worst:.2%}" if where else "the very same"
    return Check(name=name, ok=worst <= golden.tolerance, value=value, limit=limit)


def _ask(session: Session, folder: Path, golden: Golden) -> tuple[dict[str, Any], dict[str, Any]]:
    """One golden input's expected outputs, and the engine's."""
    from edgetrt.engine.accuracy import answer

    feed, expected = _load(folder / golden.input), _load(folder / golden.expected)
    for spec in session.inputs:
        values = feed.get(spec.name)
        if values is None or tuple(values.shape) != tuple(spec.shape):
            got = "it is missing" if values is None else f"it has {list(values.shape)}"
            raise ConfigError(
                f"{golden.input}: input {spec.name!r} of the network is {list(spec.shape)}, {got}",
                "Save the network's own input tensors: numpy.savez(file, NAME=array).",
            )
    wanted = {spec.name: feed[spec.name].astype(spec.dtype) for spec in session.inputs}
    return expected, answer(session, wanted)


def _load(path: Path) -> dict[str, Any]:
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"{path}: cannot be read as tensors: {error}",
            "Save it with numpy.savez, arrays only.",
        ) from error


def _accuracy(
    least: float | None, reading: Reading, asked: Sequence[tuple[Tensors, Tensors]]
) -> list[Check]:
    """Judge all golden inputs together by the task's measure, where that was promised."""
    if least is None:
        return []
    limit = f">= {least:.4f}"
    if not asked:
        told = "not judged: the release has no golden inputs"
        return [Check(name="accuracy", ok=False, value=told, limit=limit)]
    try:
        verdict = reading.gate().judge([pair[0] for pair in asked], [pair[1] for pair in asked])
    except ModelError as error:
        return [Check(name="accuracy", ok=False, value=f"not judged: {error.message}", limit=limit)]
    told = f"{verdict.measure} {verdict.value:.4f} on {len(asked)} golden inputs"
    return [Check(name="accuracy", ok=verdict.value >= least, value=told, limit=limit)]


def _memory(most_mb: float | None, memory_mb: float) -> list[Check]:
    if most_mb is None:
        return []
    told = f"{memory_mb:.0f} MB by itself"
    return [Check(name="memory", ok=memory_mb <= most_mb, value=told, limit=f"<= {most_mb:.0f} MB")]


if __name__ == "__main__":
    raise SystemExit(main())
