"""Which backend runs this network best on this machine: a short measured trial, remembered."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import BackendError, EdgetrtError
from edgetrt.ports import Backend, Session
from edgetrt.types import Shape, TensorSpec

TRIAL_S = 0.2
"""How long all backends together may compute in a trial, beyond loading."""

_RUNS_PER_BLOCK = 3  # the first is not counted: the threads of the one before may still be spinning
_MAX_BLOCKS = 20
_MARGIN = 0.95  # a later backend must be this much faster: equal ones stay with the first
_FORMAT = 1
_REMEMBERED = 64  # choices kept in the file, newest last


@dataclass(frozen=True)
class Found:
    """One backend on this machine: usable, or the reason and the remedy."""

    name: str
    backend: Backend | None
    version: str = ""
    reason: str = ""
    hint: str = ""


def available(makers: Mapping[str, Callable[[], Backend]]) -> tuple[Found, ...]:
    """Try to make each backend, in the order given."""
    return tuple(_find(name, make) for name, make in makers.items())


def _find(name: str, make: Callable[[], Backend]) -> Found:
    try:
        backend = make()
        return Found(name, backend, backend.version)
    except EdgetrtError as error:
        return Found(name, None, reason=error.message, hint=error.hint)


def choose(
    backends: Sequence[Backend],
    model: Path,
    digest: str,
    threads: int,
    cache_dir: Path,
    shapes: Mapping[str, Shape] | None = None,
) -> Backend:
    """Pick the fastest backend for a network, measuring once per network, machine and version.

    One backend alone is taken without a trial. The memory is only a saving: a file that is damaged,
    of another format or not writable costs a new trial and nothing else.

    Args:
        backends: in order of preference where they are equally fast.
        model: the network's file.
        digest: of the file, as part of the memory's key.
        threads: as the pipeline will run with.
        cache_dir: where the choices are remembered.
        shapes: as for `Backend.load`.

    Raises:
        BackendError: there is none, or none can load the network; the message lists the reasons.
        EdgetrtError: the only backend's own error is left to its `load`.
    """
    if len(backends) == 1:
        return backends[0]
    store = cache_dir / "backends.json"
    key = _key(backends, digest, threads, shapes)
    known = {backend.name: backend for backend in backends}
    choices = recall(store)
    if (name := choices.get(key)) in known:
        return known[name]
    times_ms = measure(backends, model, threads, shapes)
    name = fastest(times_ms)
    remember(store, {**choices, key: name})
    return known[name]


def fastest(times_ms: Mapping[str, float]) -> str:
    """Name of the backend to take; the first wins unless a later one is clearly faster."""
    best, *others = times_ms
    for name in others:
        if times_ms[name] < times_ms[best] * _MARGIN:
            best = name
    return best


def measure(
    backends: Sequence[Backend],
    model: Path,
    threads: int,
    shapes: Mapping[str, Shape] | None = None,
    budget_s: float = TRIAL_S,
) -> dict[str, float]:
    """Median milliseconds per run of each backend that loads the network; in turn, equal input.

    Raises:
        BackendError: none can load and run it.
    """
    sessions: dict[str, Session] = {}
    reasons: list[str] = []
    try:
        for backend in backends:
            try:
                sessions[backend.name] = _prepare(backend, model, threads, shapes)
            except EdgetrtError as error:
                reasons.append(f"{backend.name}: {error.message}")
        if not sessions:
            raise BackendError(
                f"{model}: no backend can run it: {'; '.join(reasons) or 'none is installed'}",
                "Correct the first reason, or install another backend: pip install onnxruntime.",
            )
        return _trial(sessions, budget_s if len(sessions) > 1 else 0.0)
    finally:
        for session in sessions.values():
            session.close()


def _prepare(
    backend: Backend, model: Path, threads: int, shapes: Mapping[str, Shape] | None
) -> Session:
    """Load, fill the inputs and run once, so that the trial meets a warm session."""
    session = backend.load(model, threads, shapes)
    try:
        random = np.random.default_rng(0)
        for spec in session.inputs:
            session.buffers[spec.name][...] = _noise(random, spec)
        session.infer()
    except EdgetrtError:
        session.close()
        raise
    return session


def _trial(sessions: Mapping[str, Session], budget_s: float) -> dict[str, float]:
    """Run blocks in turn until the time is used; every session gets one block at least."""
    times_ms: dict[str, list[float]] = {name: [] for name in sessions}
    end_ns = time.monotonic_ns() + int(budget_s * 1e9)
    for _ in range(_MAX_BLOCKS):
        for name, session in sessions.items():
            for run in range(_RUNS_PER_BLOCK):
                begin_ns = time.perf_counter_ns()
                session.infer()
                if run > 0:
                    times_ms[name].append((time.perf_counter_ns() - begin_ns) / 1e6)
        if time.monotonic_ns() >= end_ns:
            break
    return {name: statistics.median(times) for name, times in times_ms.items()}


def _noise(random: np.random.Generator, spec: TensorSpec) -> NDArray[Any]:
    """Something like a normalised picture: on zeros some kernels look better than they are."""
    if np.issubdtype(np.dtype(spec.dtype), np.floating):
        return random.random(spec.shape, dtype=np.float32)
    # Integers that are indexes (of words, of rows) are valid while they are small.
    return random.integers(0, 256 if spec.dtype == "uint8" else 2, spec.shape)


def _key(
    backends: Sequence[Backend],
    digest: str,
    threads: int,
    shapes: Mapping[str, Shape] | None,
) -> str:
    """What the choice depends on, as one short text."""
    versions = [f"{backend.name} {backend.version}" for backend in backends]
    sizes = sorted((name, list(shape)) for name, shape in (shapes or {}).items())
    parts = json.dumps([digest, versions, threads, sizes, _machine()])
    return hashlib.sha256(parts.encode()).hexdigest()


def _machine() -> list[str]:
    """Processor model and the cores this process may use."""
    return [platform.machine(), _processor(), str(len(os.sched_getaffinity(0)))]


def _processor() -> str:
    """The board's or the processor's name; empty where the system tells neither."""
    try:
        return Path("/proc/device-tree/model").read_text(encoding="utf-8").rstrip("\0")
    except OSError:
        pass
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line[:10] == "model name"), "")


def recall(store: Path) -> dict[str, str]:
    """Choices by key; empty when the file is missing, damaged or of another format."""
    try:
        data = json.loads(store.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(data, dict) or data.get("v") != _FORMAT:
        return {}
    choices = data.get("choices")
    if not isinstance(choices, dict):
        return {}
    return {key: name for key, name in choices.items() if isinstance(name, str)}


def remember(store: Path, choices: Mapping[str, str]) -> None:
    """Replace the file in one step; where that is not possible the next start measures again."""
    newest = dict(list(choices.items())[-_REMEMBERED:])
    text = json.dumps({"v": _FORMAT, "choices": newest}, indent=1)
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=store.parent, prefix=store.name)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            temporary.replace(store)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError:
        return
