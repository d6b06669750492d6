"""Stand-ins for TensorRT releases that cannot run without a GPU.

`make("10.3.0")` gives a module with exactly those names that release has, by what was recorded from its
bindings (`tests/data/tensorrt_api`). What it lacks raises AttributeError when touched, read or
written, as the real one does. What is there behaves as far as a build needs it.
"""

from __future__ import annotations

import enum
import json
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

SURFACES = Path(__file__).parents[1] / "data" / "tensorrt_api"
RELEASES = ("8.5.2", "8.6.1", "10.3.0", "10.13.3", "11.4.0")

# TensorRT 8.5 is not on the package index; what 8.6 added, from its release notes and headers.
_SINCE_8_6 = {
    "IBuilderConfig": {
        "builder_optimization_level",
        "hardware_compatibility_level",
        "max_aux_streams",
    },
    "OnnxParser": {"set_flag", "clear_flag", "get_flag", "flags"},
    "ILayer": {"metadata"},
    "MemoryPoolType": {"TACTIC_DRAM"},
    "BuilderFlag": {"FP8", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"},
    "module": {"HardwareCompatibilityLevel", "OnnxParserFlag"},
}
_DLA_KINDS = {
    "Conv": "CONVOLUTION",
    "Relu": "ACTIVATION",
    "MaxPool": "POOLING",
    "Add": "ELEMENTWISE",
}
_GPU_KINDS = {
    "Softmax": "SOFTMAX",
    "Reshape": "SHUFFLE",
    "Flatten": "SHUFFLE",
    "Gemm": "MATRIX_MULTIPLY",
}
_ENUMS = [
    "BuilderFlag",
    "NetworkDefinitionCreationFlag",
    "OnnxParserFlag",
    "ErrorCode",
    "MemoryPoolType",
    "ProfilingVerbosity",
    "DeviceType",
    "LayerInformationFormat",
    "DataType",
    "LayerType",
]
_DTYPES = {1: "FLOAT", 10: "HALF", 6: "INT32", 7: "INT32", 3: "INT8", 9: "BOOL"}


def surface(release: str) -> dict[str, set[str]]:
    """Names by class that a release has."""
    file = SURFACES / f"{'8.6.1' if release.startswith('8.5') else release}.json"
    names = {kind: set(found) for kind, found in json.loads(file.read_text()).items()}
    if release.startswith("8.5"):
        names = {kind: found - _SINCE_8_6.get(kind, set()) for kind, found in names.items()}
    return names


def make(release: str, dla_cores: int = 0, gpu: bool = True, fails: str = "") -> Any:
    """A module of that release.

    Args:
        release: one of `RELEASES`.
        dla_cores: of the machine.
        gpu: whether engines can be loaded here.
        fails: an error that the builder logs instead of building.
    """
    names = surface(release)
    module = ModuleType("tensorrt")
    module.__dict__["__version__"] = release
    machine = _Machine(module, release, dla_cores, gpu, fails)
    for kind in _ENUMS:
        if kind in names["module"]:
            members = [n for n in names[kind] if n not in {"name", "value"}]
            setattr(module, kind, enum.IntEnum(kind, {n: i for i, n in enumerate(sorted(members))}))
    for kind, body in _classes(machine).items():
        if kind in names["module"]:
            setattr(module, kind, _cut(kind, body, names[kind]))
    return module


def _cut(kind: str, body: type, has: set[str]) -> type:
    """A class with only what the release has; unknown attributes cannot be set either."""
    lacking = [name for name in vars(body) if not name.startswith("_") and name not in has]
    for name in lacking:
        delattr(body, name)
    for name in has:
        if not hasattr(body, name):
            setattr(body, name, _Untouched(f"{kind}.{name}"))

    def refuse(self: object, name: str, value: object) -> None:
        if not name.startswith("_") and name not in has:
            raise AttributeError(f"{kind!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)

    if kind not in {"ILogger", "IProgressMonitor", "IInt8EntropyCalibrator2"}:
        body.__setattr__ = refuse  # type: ignore[method-assign,assignment]
    body.__name__ = kind
    return body


class _Untouched:
    """There in the real one; the stand-in has no behaviour for it, so a build must not use it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *args: object, **kwargs: object) -> None:
        raise NotImplementedError(f"the stand-in has no {self._name}")


class _Machine:
    """What is the same for all objects of one module, and what the test looks at afterwards."""

    def __init__(self, trt: Any, release: str, cores: int, gpu: bool, fails: str) -> None:
        self.trt, self.release, self.cores, self.gpu, self.fails = trt, release, cores, gpu, fails
        self.config: Any = None
        self.network: Any = None
        self.parser_flags: set[str] = set()
        self.log: Any = lambda severity, text: None
        trt.__dict__["machine"] = self

    @property
    def major(self) -> int:
        return int(self.release.split(".")[0])

    def placed(self) -> list[tuple[Any, str]]:
        """Layers with their devices."""
        config = self.config
        on_dla = config.default_device_type == self.trt.DeviceType.DLA
        return [
            (layer, "DLA" if on_dla and layer.name not in config._gpu and layer._dla else "GPU")
            for layer in self.network._layers
        ]

    def rows(self) -> list[tuple[str, str, str, list[str]]]:
        """Finished layers: name, kind, device, nodes; neighbours on the DLA become a loadable."""
        out: list[tuple[str, str, str, list[str]]] = []
        run: list[str] = []
        for layer, device in [*self.placed(), (None, "")]:
            if device == "DLA":
                run.append(layer.name)
                continue
            if run:
                ends = run[0] if len(run) == 1 else f"{run[0]}...{run[-1]}"
                out.append((f"{{ForeignNode[{ends}]}}", "DLA", "DLA", run))
                run = []
            if layer is not None:
                out.append((layer.name, layer.type.name, "GPU", [layer.name]))
        return out

    def plan(self) -> bytes:
        parts = [int(part) for part in self.release.split(".")]
        version = bytes([*parts, 0][:4]) if self.release >= "8.6" or self.major >= 10 else bytes(4)
        return b"ftrt" + struct.pack("<I", 0) + bytes(16) + version + b"engine"

    def inspector(self) -> str:
        layers = [
            {
                "Name": name,
                "LayerType": kind.title().replace("Dla", "DLA"),
                "Metadata": "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes),
            }
            for name, kind, _, nodes in self.rows()
        ]
        if self.major >= 11:
            return json.dumps({"Layers": layers, "I/O Tensors": [{"Name": "x"}]})
        return json.dumps({"Layers": layers, "Bindings": ["x"]})


def _classes(machine: _Machine) -> dict[str, type]:
    """Behaviour of every class, of all releases together; `_cut` takes away what is not there."""
    trt = machine.trt

    class ILogger:
        def log(self, severity: Any, msg: str) -> None: ...

    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class IProgressMonitor:
        def phase_start(
            self, phase_name: str, parent_phase: str | None, num_steps: int
        ) -> None: ...
        def step_complete(self, phase_name: str, step: int) -> bool: ...
        def phase_finish(self, phase_name: str) -> None: ...

    class IInt8EntropyCalibrator2:
        def get_batch_size(self) -> int: ...
        def get_batch(self, names: list[str]) -> None: ...
        def read_calibration_cache(self) -> bytes: ...
        def write_calibration_cache(self, cache: bytes) -> None: ...
        def get_algorithm(self) -> None: ...

    class ITensor:
        def __init__(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
            self.name, self.shape, self.dtype = name, shape, trt.DataType[dtype]
            self.is_shape_tensor = False

    class ILayer:
        def __init__(self, node: onnx.NodeProto) -> None:
            kind = _DLA_KINDS.get(node.op_type) or _GPU_KINDS.get(node.op_type, "IDENTITY")
            self.name, self.type, self._dla = (
                node.name,
                trt.LayerType[kind],
                node.op_type in _DLA_KINDS,
            )
            self.num_outputs = len(node.output)
            self._precision: Any = None
            self._outputs: dict[int, Any] = {}

        @property
        def precision(self) -> Any:
            return self._precision

        @precision.setter
        def precision(self, value: Any) -> None:
            self._precision = value

        def set_output_type(self, index: int, dtype: Any) -> None:
            self._outputs[index] = dtype

        def get_output_type(self, index: int) -> Any:
            return self._outputs.get(index, trt.DataType.FLOAT)

    class INetworkDefinition:
        def __init__(self, flags: int) -> None:
            self._flags, self._layers, self._inputs = flags, [], []
            machine.network = self

        @property
        def num_layers(self) -> int:
            return len(self._layers)

        @property
        def num_inputs(self) -> int:
            return len(self._inputs)

        def get_layer(self, index: int) -> Any:
            return self._layers[index]

        def get_input(self, index: int) -> Any:
            return self._inputs[index]

    class ParserError:
        def __init__(self, index: int, node: onnx.NodeProto) -> None:
            self._index, self._node = index, node

        def node(self) -> int:
            return self._index

        def node_name(self) -> str:
            return str(self._node.name)

        def node_operator(self) -> str:
            return str(self._node.op_type)

        def desc(self) -> str:
            return (
                "No importer registered for op" if machine.major < 10 else "Plugin not found, are"
            )

        def code(self) -> Any:
            return trt.ErrorCode.UNSUPPORTED_NODE

    class OnnxParser:
        def __init__(self, network: Any, logger: Any) -> None:
            self._network, self._errors = network, []

        def parse_from_file(self, path: str) -> bool:
            model = onnx.load(path)
            for value in model.graph.input:
                kind = value.type.tensor_type
                shape = tuple(
                    d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim
                )
                tensor = trt.ITensor(value.name, shape, _DTYPES[kind.elem_type])
                self._network._inputs.append(tensor)
            for index, node in enumerate(model.graph.node):
                if node.op_type == "Foo":
                    self._errors.append(trt.ParserError(index, node))
                    machine.log("ERROR", f'While parsing node number {index} [Foo -> "y"]:')
                else:
                    self._network._layers.append(trt.ILayer(node))
            return not self._errors

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> Any:
            return self._errors[index]

        def set_flag(self, flag: Any) -> None:
            machine.parser_flags.add(flag.name)

    class IOptimizationProfile:
        def __init__(self) -> None:
            self._shapes: dict[str, Any] = {}

        def set_shape(self, name: str, low: Any, usual: Any, high: Any) -> None:
            self._shapes[name] = (low, usual, high)

        def set_shape_input(self, name: str, low: Any, usual: Any, high: Any) -> None:
            self._shapes[name] = (low, usual, high)

    class ITimingCache:
        def __init__(self, blob: bytes) -> None:
            self._blob = blob

        def serialize(self) -> Any:
            return trt.IHostMemory(self._blob + b"+")

    class IHostMemory:
        def __init__(self, data: bytes) -> None:
            self._data = data

        def __bytes__(self) -> bytes:
            return self._data

    class IBuilderConfig:
        def __init__(self) -> None:
            self._flags: set[str] = {"TF32"}
            self._pools: dict[str, int] = {}
            self._gpu: set[str] = set()
            self._profiles: list[Any] = []
            self._cache: Any = None
            self._set: dict[str, Any] = {"default_device_type": trt.DeviceType.GPU, "DLA_core": -1}
            machine.config = self

        def set_flag(self, flag: Any) -> None:
            self._flags.add(flag.name)

        def clear_flag(self, flag: Any) -> None:
            self._flags.discard(flag.name)

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            self._pools[pool.name] = size

        def can_run_on_DLA(self, layer: Any) -> bool:
            return machine.cores > 0 and bool(layer._dla)

        def set_device_type(self, layer: Any, device: Any) -> None:
            assert device == trt.DeviceType.GPU
            self._gpu.add(layer.name)

        def add_optimization_profile(self, profile: Any) -> int:
            self._profiles.append(profile._shapes)
            return len(self._profiles) - 1

        def create_timing_cache(self, blob: bytes) -> Any:
            return trt.ITimingCache(blob)

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            self._cache = cache
            return not cache._blob.startswith(b"other device")

        def get_timing_cache(self) -> Any:
            return self._cache

    for name in [
        "default_device_type",
        "DLA_core",
        "int8_calibrator",
        "progress_monitor",
        "builder_optimization_level",
        "profiling_verbosity",
    ]:
        setattr(IBuilderConfig, name, _property(name))

    class Builder:
        def __init__(self, logger: Any) -> None:
            machine.log = lambda severity, text: logger.log(Severity[severity], text)

        @property
        def num_DLA_cores(self) -> int:
            return machine.cores

        def create_network(self, flags: int = 0) -> Any:
            return trt.INetworkDefinition(flags)

        def create_builder_config(self) -> Any:
            return trt.IBuilderConfig()

        def create_optimization_profile(self) -> Any:
            return trt.IOptimizationProfile()

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            return _build(machine, config)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            if not machine.gpu:
                raise RuntimeError("CUDA initialization failure with error: 35")
            self._core = -1

        @property
        def DLA_core(self) -> int:
            return self._core

        @DLA_core.setter
        def DLA_core(self, core: int) -> None:
            self._core = core

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            return trt.ICudaEngine() if plan[:4] == b"ftrt" else None

    class ICudaEngine:
        def create_engine_inspector(self) -> Any:
            return trt.EngineInspector()

    class EngineInspector:
        def get_engine_information(self, form: Any) -> str:
            assert form == trt.LayerInformationFormat.JSON
            return machine.inspector()

    return {
        name: kind
        for name, kind in locals().items()
        if isinstance(kind, type) and name != "Severity"
    }


def _property(name: str) -> property:
    return property(
        lambda self: self._set.get(name),
        lambda self, value: self._set.__setitem__(name, value),
    )


def _build(machine: _Machine, config: Any) -> Any:
    """What a real builder does as seen from outside: log, progress, plan."""
    if machine.fails:
        machine.log("ERROR", machine.fails)
        return None
    machine.log("INFO", "Local timing cache in use. Profiling results will not be stored.")
    if config.default_device_type == machine.trt.DeviceType.DLA:
        _log_placement(machine)
    monitor = config._set.get("progress_monitor")
    if monitor is not None:
        monitor.phase_start("Building Engine", None, 2)
        for step in range(2):
            if not monitor.step_complete("Building Engine", step):
                return None
        monitor.phase_finish("Building Engine")
    machine.log("INFO", "Engine generation completed in 0.1 seconds.")
    return machine.trt.IHostMemory(machine.plan())


def _log_placement(machine: _Machine) -> None:
    for layer, device in machine.placed():
        if device == "GPU" and layer.name not in machine.config._gpu:
            machine.log(
                "WARNING",
                f"Layer '{layer.name}' ({layer.type.name}): Unsupported on DLA. Switching this"
                " layer's device type to GPU.",
            )
    machine.log("INFO", "---------- Layers Running on DLA ----------")
    for name, _, device, _ in machine.rows():
        if device == "DLA":
            machine.log("INFO", f"[DlaLayer] {name}")
    machine.log("INFO", "---------- Layers Running on GPU ----------")
    for name, kind, device, _ in machine.rows():
        if device == "GPU":
            machine.log("INFO", f"[GpuLayer] {kind}: {name}")
