"""One code path that builds with TensorRT 8.5 to 11 and with TensorRT-RTX.

Every difference between the versions is decided here, by looking whether the attribute is there. What
all of them share: `OnnxParser`, `set_memory_pool_limit`, `build_serialized_network`, the inspector. What
differs: who carries the precision (flags up to 10, the network from 11 on and in RTX), how progress is
told, and what the log says.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from edgetrt.backends import tensorrt_log as log
from edgetrt.backends import tensorrt_report as report
from edgetrt.backends.tensorrt_callbacks import BuildLog, make_calibrator, make_logger, make_monitor
from edgetrt.backends.tensorrt_network import add_profiles, parse
from edgetrt.engine.events import Built, Progress
from edgetrt.errors import BackendError, EngineBuildError, ModelError, PlacementError
from edgetrt.types import BuiltLayer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgetrt.backends.tensorrt_api import Library
    from edgetrt.engine.events import AnyEvent
    from edgetrt.engine.spec import BuildSpec, Precision

DLA_RELEASES = "TensorRT 8.4 to 10.7 on Xavier and Orin NX or AGX Orin, and 11.4.1 on AGX Orin"
_BUILDING = "building"


def build(
    spec: BuildSpec,
    library: Library,
    emit: Callable[[AnyEvent], None],
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[bytes, Built]:
    """Parse, optimise and serialise; returns the plan and what is known of it.

    Args:
        spec: what to build.
        library: TensorRT as it is here.
        emit: takes progress and log lines; called from TensorRT's threads too.
        cancelled: asked between steps where the version allows it; True ends the build.

    Raises:
        UnsupportedOperatorError: nodes that the parser refuses, all of them.
        ModelError: the network does not fit the order (precision, profiles, calibration).
        PlacementError: no DLA here, or `strict` and a computing layer is on the GPU.
        EngineBuildError: the optimiser failed.
        BackendError: TensorRT cannot start on this machine.
    """
    began = time.monotonic()
    trt = library.trt
    lines = BuildLog(emit, tell_steps=not hasattr(trt, "IProgressMonitor"))
    logger = make_logger(trt, lines)
    builder = _builder(trt, logger, lines)
    typed = strongly_typed(spec, library)
    check_dla(spec, library, builder.num_DLA_cores)
    emit(Progress("parsing"))
    network = builder.create_network(network_flags(trt, typed))
    _parse(trt, network, logger, spec, lines)
    config = builder.create_builder_config()
    set_precision(trt, network, config, spec, typed)
    set_limits(trt, config, spec, library)
    meant = place(trt, network, config, spec)
    add_profiles(builder, network, config, spec)
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = make_monitor(trt, emit, cancelled)
    emit(Progress(_BUILDING, 0.0))
    memory = builder.build_serialized_network(network, config)
    if memory is None:
        raise _failure(lines, cancelled())
    plan = bytes(memory)
    lines.calm = True
    save_timings(config, spec, library)
    del memory, config, network, builder
    return plan, _report(library, spec, plan, lines, logger, meant, time.monotonic() - began)


def strongly_typed(spec: BuildSpec, library: Library) -> bool:
    """Decide who carries the precision: the network (True) or the builder's flags (False).

    Raises:
        ModelError: this version has no precision flags and the network carries no precision.
    """
    trt = library.trt
    if not hasattr(trt.BuilderFlag, "FP16"):
        if spec.precision != "fp32" and not spec.typed:
            raise ModelError(
                f"{spec.onnx}: {spec.precision} is asked for, the network is in fp32, and"
                f" TensorRT {library.version} takes the precision from the network only",
                "Let `edgetrt deploy --precision` write it into the network first.",
            )
        return True
    if spec.dla is not None:  # up to 10.7 the DLA takes weakly typed networks only
        return False
    return spec.typed and hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def network_flags(trt: Any, typed: bool) -> int:
    """Creation flags: EXPLICIT_BATCH is needed by 8.x, ignored by 10 and gone in 11."""
    kinds, flags = trt.NetworkDefinitionCreationFlag, 0
    if hasattr(kinds, "EXPLICIT_BATCH"):
        flags |= 1 << int(kinds.EXPLICIT_BATCH)
    if typed and hasattr(kinds, "STRONGLY_TYPED"):
        flags |= 1 << int(kinds.STRONGLY_TYPED)
    return flags


def check_dla(spec: BuildSpec, library: Library, cores: int) -> None:
    """Refuse a DLA build where there is no such core or no precision that it computes in."""
    if spec.dla is None:
        return
    if spec.dla >= cores:
        have = f"has {cores}" if cores else "has none"
        raise PlacementError(
            f"DLA core {spec.dla} was asked for; TensorRT {library.version} on this machine {have}",
            f"Releases with a DLA: {DLA_RELEASES}. Build without --dla for the GPU.",
        )
    if spec.precision == "fp32":
        raise PlacementError(
            f"{spec.onnx}: the DLA computes in fp16 and int8, fp32 was asked for",
            "Use --precision fp16 or int8.",
        )


def set_precision(
    trt: Any,
    network: Any,
    config: Any,
    spec: BuildSpec,
    typed: bool,
) -> None:
    """Set precision flags, scales and layer precisions where the builder is the one to decide.

    Raises:
        ModelError: INT8 without scales.
    """
    flags = trt.BuilderFlag
    if not spec.allow_tf32:
        config.clear_flag(flags.TF32)
    if typed:
        return
    if spec.precision != "fp32":
        config.set_flag(flags.FP16)
    if spec.precision == "int8":
        config.set_flag(flags.INT8)
        if spec.calibration is not None:
            config.int8_calibrator = make_calibrator(trt, spec.calibration)
        elif not spec.typed:
            raise ModelError(
                f"{spec.onnx}: int8 without scales: no calibration cache, no Q/DQ in the network",
                "Give calibration frames: edgetrt deploy --precision int8 --calib DIR.",
            )
    if spec.dla is not None or spec.layer_precisions:
        config.set_flag(flags.PREFER_PRECISION_CONSTRAINTS)
    _pin_precisions(trt, network, spec)


def _pin_precisions(trt: Any, network: Any, spec: BuildSpec) -> None:
    dtypes = {"fp32": trt.DataType.FLOAT, "fp16": trt.DataType.HALF, "int8": trt.DataType.INT8}
    floats = set(dtypes.values())
    for layer in _layers(network):
        precision: Precision | None = spec.layer_precisions.get(layer.name)
        if precision is None:
            continue
        layer.precision = dtypes[precision]
        for index in range(layer.num_outputs):
            if layer.get_output_type(index) in floats:
                layer.set_output_type(index, dtypes[precision])


def set_limits(trt: Any, config: Any, spec: BuildSpec, library: Library) -> None:
    """Memory pools, effort, verbosity and the timing cache."""
    pools = trt.MemoryPoolType
    if spec.workspace_bytes is not None:
        config.set_memory_pool_limit(pools.WORKSPACE, spec.workspace_bytes)
    if spec.dla is not None:
        for name, size in spec.pools.items():
            config.set_memory_pool_limit(getattr(pools, name.upper()), size)
    if spec.opt_level is not None and hasattr(trt.IBuilderConfig, "builder_optimization_level"):
        config.builder_optimization_level = spec.opt_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if spec.timing_cache is not None and not library.rtx:  # in RTX it exists and does nothing
        blob = spec.timing_cache.read_bytes() if spec.timing_cache.is_file() else b""
        if not config.set_timing_cache(config.create_timing_cache(blob), False):
            config.set_timing_cache(config.create_timing_cache(b""), False)


def save_timings(config: Any, spec: BuildSpec, library: Library) -> None:
    """Write the measured kernel times back, whole or not at all."""
    if spec.timing_cache is None or library.rtx:
        return
    cache = config.get_timing_cache()
    if cache is not None:
        replace_file(spec.timing_cache, bytes(cache.serialize()))


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path` by renaming a finished file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_bytes(data)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def place(trt: Any, network: Any, config: Any, spec: BuildSpec) -> tuple[BuiltLayer, ...]:
    """Set the devices as trtexec does, and say what the builder thinks of each layer.

    Fallback is always allowed, because even the reformatting of inputs runs on the GPU; `strict` is
    judged from the finished engine.
    """
    if spec.dla is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = spec.dla
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    out, pinned = [], set(spec.gpu_layers)
    for layer in _layers(network):
        dla = spec.dla is not None and config.can_run_on_DLA(layer)
        if spec.dla is not None and layer.name in pinned:
            config.set_device_type(layer, trt.DeviceType.GPU)
            dla = False
        out.append(BuiltLayer(layer.name, "DLA" if dla else "GPU", layer.type.name))
    return tuple(out)


def _layers(network: Any) -> list[Any]:
    return [network.get_layer(index) for index in range(network.num_layers)]


def _builder(trt: Any, logger: Any, lines: BuildLog) -> Any:
    """Make a builder; TensorRT itself wants a GPU for that, RTX does not."""
    try:
        return trt.Builder(logger)
    except (TypeError, RuntimeError) as error:
        said = "; ".join(log.errors(lines.lines)) or str(error)
        raise BackendError(
            f"TensorRT cannot start a builder: {said}",
            "Check that the GPU is visible here (groups video and render; in a container"
            " --runtime nvidia), then run `edgetrt doctor`.",
        ) from error


def _parse(trt: Any, network: Any, logger: Any, spec: BuildSpec, lines: BuildLog) -> None:
    parser = trt.OnnxParser(network, logger)
    adjusts = hasattr(trt, "OnnxParserFlag") and hasattr(trt.OnnxParserFlag, "ADJUST_FOR_DLA")
    if spec.dla is not None and adjusts:
        parser.set_flag(trt.OnnxParserFlag.ADJUST_FOR_DLA)
    parse(parser, spec.onnx, lines.lines)


def inspect(library: Library, logger: Any, plan: bytes, spec: BuildSpec) -> str:
    """The finished engine's own account of its layers; empty where it cannot be loaded (no GPU)."""
    trt = library.trt
    runtime = trt.Runtime(logger)
    if spec.dla is not None:
        runtime.DLA_core = spec.dla
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return ""
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _report(
    library: Library,
    spec: BuildSpec,
    plan: bytes,
    lines: BuildLog,
    logger: Any,
    meant: tuple[BuiltLayer, ...],
    seconds: float,
) -> Built:
    """Say where the layers are, from the best witness there is, and judge `strict`."""
    logged, why = log.placement(lines.lines), log.reasons(lines.lines)
    try:
        text = inspect(library, logger, plan, spec)
    except (RuntimeError, TypeError):  # without a driver there is no runtime; the plan is good
        text = ""
    on_dla = {layer.name for layer in logged if layer.device == "DLA"}
    inspected = report.parse_inspector(text, on_dla)
    layers, warnings = report.merge(inspected, logged)
    warnings = (*warnings, *_unknown_pins(spec, meant))
    source = "inspector" if inspected else "log" if logged else "network"
    layers = layers or meant
    if spec.strict and spec.dla is not None and (left := report.on_gpu(layers)):
        raise _not_strict(left, why)
    if spec.dla is not None and not report.loadables(layers):
        warnings = (*warnings, "no layer runs on the DLA: the engine is a GPU engine")
    toolchain = f"{library.flavour} {library.version}"
    return Built(toolchain, len(plan), seconds, layers, source, why, warnings)


def _unknown_pins(spec: BuildSpec, meant: tuple[BuiltLayer, ...]) -> list[str]:
    """Pins without effect: the parser folds some nodes away, and a name may be wrong."""
    unknown = sorted({*spec.gpu_layers, *spec.layer_precisions} - {layer.name for layer in meant})
    return [f"pinned layer {name!r} is not in the network that is built" for name in unknown]


def _not_strict(left: tuple[BuiltLayer, ...], why: dict[str, str]) -> PlacementError:
    shown = "; ".join(
        f"{layer.name} ({why.get(layer.name, layer.kind.lower())})" for layer in left[:5]
    )
    more = f" and {len(left) - 5} more" if len(left) > 5 else ""
    return PlacementError(
        f"strict: {len(left)} computing layers are on the GPU: {shown}{more}",
        "See `edgetrt check --dla` for what lifts them, or leave out --strict.",
    )


def _failure(lines: BuildLog, stopped: bool) -> EngineBuildError:
    """Why there is no plan."""
    said = "; ".join(log.errors(lines.lines)) or "TensorRT gave no reason"
    if stopped:
        return EngineBuildError("the build was cancelled")
    if log.out_of_memory(lines.lines):
        return EngineBuildError(
            f"TensorRT ran out of memory: {said}",
            "Stop other programs, lower the workspace, or build at a lower optimization level.",
        )
    return EngineBuildError(
        f"TensorRT built no engine: {said}", "The lines before it are in the build's log."
    )
