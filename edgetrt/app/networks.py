"""Backends by name, and networks loaded into them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetrt.app.places import cache_dir, state_dir
from edgetrt.clock import SystemClock
from edgetrt.config import BackendName, RecipeConfig
from edgetrt.errors import BackendError, CudaError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgetrt.backends.device_session import DeviceSession, SessionOptions
    from edgetrt.backends.tensorrt import TensorRtBackend
    from edgetrt.engine.active import Active, Record
    from edgetrt.engine.manifest import Engine
    from edgetrt.engine.recipe import Recipe
    from edgetrt.ports import Backend, Device, Module
    from edgetrt.runtime.network import Input, Network
    from edgetrt.runtime.reading import Reading
    from edgetrt.types import Shape

log = logging.getLogger(__name__)


def backends() -> dict[str, Callable[[], Backend]]:
    """Every backend by name, best first; calling one raises BackendError where it is not installed."""
    from edgetrt.backends.onnxruntime import OnnxRuntimeBackend
    from edgetrt.backends.openvino import OpenVinoBackend

    return {
        "tensorrt": tensorrt_backend,
        "onnxruntime": OnnxRuntimeBackend,
        "openvino": OpenVinoBackend,
    }


def tensorrt_backend(core: int | None = None) -> TensorRtBackend:
    """TensorRT on this machine's GPU, or on one of its DLA cores.

    Raises:
        BackendError: no TensorRT, or no GPU.
    """
    from edgetrt.backends.tensorrt import TensorRtBackend
    from edgetrt.gpu.device import open_device

    return TensorRtBackend(open_device(), dla_core=core)


def on_gpu(device: Device, reading: Reading) -> Callable[[Any], Input]:
    """Preprocessing on the GPU, ahead of the engine and in the same graph; behind it, a large head's filter.

    Raises:
        CudaError: there is no compiler for its kernel, or the GPU refuses it.
    """
    from edgetrt.gpu.layout import target
    from edgetrt.gpu.preprocess import GpuPreprocessor
    from edgetrt.gpu.surfaces import Sharing

    config = reading.recipe.config.preprocess
    module, head = _kernels(device, "preprocess"), reading.filterable
    detect = None if head is None else _kernels(device, "detect")
    sharing = Sharing(device)

    def attach(session: DeviceSession) -> Input:
        (spec,) = session.inputs
        into = target(spec, session.pointer(spec.name), config)
        preprocessor = GpuPreprocessor(device, module, into, config, sharing=sharing)
        session.lead(spec.name, preprocessor)
        if head is not None and detect is not None:
            filter_head(device, detect, session, *head)
        return preprocessor

    return attach


def filter_head(
    device: Device, module: Module, session: DeviceSession, name: str, limit: float
) -> None:
    """Let the GPU leave of a detection head what reaches the limit, where it can read the head."""
    from edgetrt.gpu.detect import CandidateFilter, readable

    spec = next(s for s in session.outputs if s.name == name)
    if readable(spec):
        pointer = session.pointer(name)
        device.push()
        try:
            session.trail(name, CandidateFilter(device, module, spec, pointer, limit))
        finally:
            device.pop()


def _kernels(device: Device, name: str) -> Module:
    from edgetrt.gpu import compile as kernels

    major, minor = device.info.compute_capability
    device.push()
    try:
        code = kernels.load(name, major * 10 + minor, cache_dir() / "kernels")
        return device.module(code)
    finally:
        device.pop()


def session_options(
    device: Device, load: Callable[[SessionOptions], DeviceSession], key: str, store: Path
) -> SessionOptions:
    """How an engine's sessions use the GPU: where it shares the host's memory, by a remembered trial."""
    from edgetrt.backends.device_session import SessionOptions
    from edgetrt.backends.memory import choose_memory, remembered

    if not device.info.integrated:
        return SessionOptions()
    clock = SystemClock()
    trial = lambda: choose_memory(lambda memory: load(SessionOptions(memory)), clock)  # noqa: E731
    return SessionOptions(remembered(store, key, trial))


def _plan_network(
    backend: TensorRtBackend, engine: Engine, record: Record, reading: Reading
) -> Network:
    """A plan with its preprocessing on the GPU; on the CPU where no kernel can be compiled."""
    serving, depth = record.current, record.pipeline.depth
    key = f"{serving.fingerprint} TensorRT {backend.version} {backend.device.info.name}"

    def load(options: SessionOptions) -> DeviceSession:
        return backend.deserialize(engine.data, serving.model, reading.shapes, options)

    session = load(session_options(backend.device, load, key, cache_dir() / "memory.json"))
    try:
        attach = on_gpu(backend.device, reading)
    except CudaError as error:
        log.warning("preprocessing on the CPU: %s", error.in_line)
        attach = reading.on_cpu
    name = serving.fingerprint[:16]
    return reading.network(session, name, serving.backend, depth, attach)


def pick_backend(
    name: BackendName, model: Path, digest: str, threads: int, shapes: Mapping[str, Shape] | None
) -> Backend:
    """Make the backend of that name; for `auto`, the fastest here by a short remembered trial.

    Raises:
        BackendError: it is not installed, or none is.
    """
    from edgetrt.backends.choose import available, choose

    makers = backends()
    if name == "auto":
        installed = [found.backend for found in available(makers) if found.backend is not None]
        return choose(installed, model, digest, threads, cache_dir(), shapes)
    if name not in makers:
        raise BackendError(
            f"backend {name!r}: not available on this machine",
            f"Use one of {', '.join(makers)}, or `auto`; `edgetrt doctor` says what is missing.",
        )
    return makers[name]()


def open_network(recipe: Recipe, backend: BackendName, threads: int, depth: int) -> Network:
    """Load a recipe's network with as many lanes as frames may overlap.

    Raises:
        ModelError: the file is damaged, or not what the task expects.
        BackendError: nothing here can run it.
    """
    from edgetrt.model import onnx_file
    from edgetrt.runtime.reading import Reading

    reading = Reading.of(recipe)
    digest = onnx_file.digest(recipe.model)
    chosen = pick_backend(backend, recipe.model, digest, threads, reading.shapes)
    session = chosen.load(recipe.model, threads, reading.shapes)
    return reading.network(session, digest[:16], chosen.name, depth)


def active() -> Active:
    """Which engine each deployed pipeline runs."""
    from edgetrt.engine.active import Active

    return Active(state_dir() / "active")


def open_deployed(record: Record) -> Network:
    """Load the engine of a deployed pipeline from the cache, verified.

    Raises:
        EngineMismatchError: it is gone, or was changed.
        BackendError: it cannot run here.
    """
    from edgetrt.engine.cache import Cache, default_root
    from edgetrt.engine.recipe import Recipe
    from edgetrt.engine.report import NETWORK
    from edgetrt.runtime.reading import Reading

    pipeline, serving = record.pipeline, record.current
    engine = Cache(default_root()).open(serving.fingerprint)
    network = engine.path.with_name(NETWORK)
    recipe = RecipeConfig(model=str(network), task=serving.task, preprocess=serving.preprocess)
    reading = Reading.of(Recipe(network, network, recipe))
    if serving.backend == "tensorrt":  # a plan is code: the bytes that were verified run
        return _plan_network(tensorrt_backend(serving.dla), engine, record, reading)
    backend = backends()[serving.backend]()
    session = backend.load(engine.path, serving.threads, reading.shapes)
    return reading.network(session, serving.fingerprint[:16], serving.backend, pipeline.depth)
