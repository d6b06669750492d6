"""Plans to sessions, with TensorRT 8.5 to 11 and TensorRT-RTX.

Only what all of them share is used (tensor names, `set_tensor_address`, `execute_async_v3`); the rest is
asked for with `hasattr`. A plan is native code: `engine_host_code_allowed` stays off, and callers that
verify a digest pass the very bytes they verified to `deserialize`.
"""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetrt.backends import tensorrt_api, tensors
from edgetrt.backends.device_session import DeviceSession, SessionOptions
from edgetrt.engine.plan import check_header, read_header
from edgetrt.errors import (
    BackendError,
    CudaError,
    EngineMismatchError,
    InferenceError,
    ModelError,
)
from edgetrt.types import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgetrt.ports import Device
    from edgetrt.types import Shape

log = logging.getLogger(__name__)

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
"""By TensorRT's name: its own mapping to numpy breaks between old bindings and new numpy."""


class TensorRtBackend:
    """Runs plans on a GPU, or on one of its DLA cores.

    Args:
        device: the GPU.
        options: how sessions use it.
        dla_core: runs DLA parts of plans; None for plans without any.
        library: TensorRT; looked for when not given.

    Raises:
        BackendError: TensorRT is not installed, or there is no such DLA core.
    """

    name = "tensorrt"

    def __init__(
        self,
        device: Device,
        options: SessionOptions | None = None,
        dla_core: int | None = None,
        library: tensorrt_api.Library | None = None,
    ) -> None:
        self._library = library or tensorrt_api.load()
        self._trt, self.version = self._library.trt, self._library.version
        self._device, self._options, self._dla_core = device, options, dla_core
        self._lines: deque[str] = deque(maxlen=20)
        self._logger = _logger(self._trt, self._lines)

    @property
    def device(self) -> Device:
        """The GPU that plans run on."""
        return self._device

    def load(
        self, model: Path, threads: int = 0, shapes: Mapping[str, Shape] | None = None
    ) -> DeviceSession:
        """Load a plan file; `threads` has no meaning on a GPU."""
        tensors.check_file(model)
        try:
            plan = model.read_bytes()
        except OSError as error:
            raise ModelError(f"{model}: cannot be read: {error.strerror}") from error
        return self.deserialize(plan, str(model), shapes)

    def deserialize(
        self,
        plan: bytes,
        name: str,
        shapes: Mapping[str, Shape] | None = None,
        options: SessionOptions | None = None,
    ) -> DeviceSession:
        """Turn the bytes of a plan into a session, with the backend's options unless others are given.

        Raises:
            EngineMismatchError: no plan, or one of another library, version or GPU.
            ModelError: its tensors are of kinds that sessions cannot hold.
            CudaError: no memory for it.
        """
        library = self._library
        check_header(read_header(plan, name), library.flavour, library.numbers[:3], name)
        self._device.push()
        try:
            runtime = self._runtime()
            self._lines.clear()
            engine = runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise self._unfit(name)
            execution = TensorRtExecution(self, engine, name, shapes or {})
        finally:
            self._device.pop()
        return DeviceSession(self._device, execution, options or self._options)

    def _runtime(self) -> Any:
        runtime = self._trt.Runtime(self._logger)
        if self._dla_core is not None:
            cores = int(runtime.num_DLA_cores)
            if not 0 <= self._dla_core < cores:
                raise BackendError(
                    f"DLA core {self._dla_core}: this device has {cores or 'none'}",
                    "Take `dla` out of the recipe, or deploy to a board with a DLA.",
                )
            runtime.DLA_core = self._dla_core
        return runtime

    def _unfit(self, name: str) -> EngineMismatchError:
        major, minor = self._device.info.compute_capability
        return EngineMismatchError(
            f"{name}: TensorRT {self.version} on {self._device.info.name} (compute capability"
            f" {major}.{minor}) cannot deserialize the plan: {self.why()}",
            "Deploy the ONNX file on this device: plans fit only the GPU and version they were"
            " built for.",
        )

    def why(self) -> str:
        """What TensorRT last complained of."""
        return self._lines[-1] if self._lines else "no reason given"

    def context(self, engine: Any, name: str) -> Any:
        """Make an execution context, with the error recorder TensorRT writes to.

        Raises:
            CudaError: TensorRT gave none; says how much memory the engine wanted and what is free.
        """
        self._lines.clear()
        context = engine.create_execution_context()
        if context is not None:
            context.error_recorder = _recorder(self._trt, self._lines)
            return context
        sizes = (getattr(engine, f"device_memory_size{kind}", None) for kind in ("_v2", ""))
        needed = next((int(size) for size in sizes if size is not None), 0)
        free, total = self._device.memory()
        raise CudaError(
            f"{name}: no execution context: it needs {needed / 2**20:.1f} MiB,"
            f" {free / 2**20:.1f} of {total / 2**20:.1f} MiB are free: {self.why()}",
            "Free memory: fewer networks, a lower depth, or a smaller builder workspace.",
            "CUDA_ERROR_OUT_OF_MEMORY",
        )


class TensorRtExecution:
    """One execution context; its tensors' shapes are set once.

    Raises:
        ModelError: a shape outside the optimization profile, or a tensor that cannot be bound.
        CudaError: no memory.
    """

    def __init__(
        self, backend: TensorRtBackend, engine: Any, name: str, shapes: Mapping[str, Shape]
    ) -> None:
        self._backend, self._engine, self._name, self._shapes = backend, engine, name, shapes
        trt = self._trt = backend._trt
        self._context = backend.context(engine, name)
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        is_input = {n: engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT for n in names}
        asked = [self._spec(n, engine.get_tensor_shape(n)) for n in names if is_input[n]]
        self.inputs = tensors.fixed(Path(name), asked, shapes)
        for before, spec in zip(asked, self.inputs, strict=True):
            if before != spec:
                self._settle(spec)
        self.outputs = tuple(self._sized(n) for n in names if not is_input[n])
        self.no_graph = ""
        if backend._dla_core is not None:
            self.no_graph = "CUDA graphs and DLA parts do not go together"

    def bind(self, name: str, pointer: int) -> None:
        """Say where a tensor lies on the device."""
        if not self._context.set_tensor_address(name, pointer):
            raise InferenceError(
                f"{self._name}: tensor {name!r} was not bound: {self._backend.why()}"
            )

    def enqueue(self, stream: int) -> None:
        """Queue one inference."""
        if not self._context.execute_async_v3(stream):
            raise InferenceError(
                f"{self._name}: TensorRT refused to enqueue: {self._backend.why()}",
                "The session is loaded anew; when it stays refused, deploy the network again.",
            )

    def twin(self) -> TensorRtExecution:
        """Make another context of the same engine."""
        return TensorRtExecution(self._backend, self._engine, self._name, self._shapes)

    def close(self) -> None:
        """Drop the context; the engine goes with its last one."""
        self._context = self._engine = None

    def _settle(self, spec: TensorSpec) -> None:
        """Give a dynamic input its size, inside the first optimization profile."""
        least, _, most = (tuple(s) for s in self._engine.get_tensor_profile_shape(spec.name, 0))
        sizes = zip(least, spec.shape, most, strict=True)
        if not all(low <= size <= high for low, size, high in sizes):
            raise ModelError(
                f"{self._name}: input {spec.name!r} asked for {list(spec.shape)}; the plan's profile"
                f" goes from {list(least)} to {list(most)}",
                "Give a size inside the profile, or deploy with another one.",
            )
        if not self._context.set_input_shape(spec.name, spec.shape):
            raise ModelError(
                f"{self._name}: input {spec.name!r} cannot be {list(spec.shape)}:"
                f" {self._backend.why()}"
            )

    def _sized(self, name: str) -> TensorSpec:
        """Read an output's shape, known once the inputs' are."""
        shape = tuple(self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise ModelError(
                f"{self._name}: the size of output {name!r} {list(shape)} depends on the data",
                "Export with a fixed number of results, such as padded to a maximum.",
            )
        return self._spec(name, shape)

    def _spec(self, name: str, shape: Iterable[int]) -> TensorSpec:
        """Describe a tensor that lies on the device and that numpy can hold."""
        kind = str(self._engine.get_tensor_dtype(name)).rpartition(".")[2].upper()
        if kind not in _DTYPES:
            raise ModelError(
                f"{self._name}: tensor {name!r} is {kind}, which numpy does not have",
                f"Export inputs and outputs as one of {', '.join(_DTYPES.values())}.",
            )
        if hasattr(self._engine, "get_tensor_location") and self._engine.get_tensor_location(
            name
        ) == getattr(self._trt.TensorLocation, "HOST", None):
            raise ModelError(
                f"{self._name}: tensor {name!r} is a shape tensor",
                "Fold shapes into the network as constants when you export it.",
            )
        return TensorSpec(name, tuple(shape), _DTYPES[kind])


def _logger(trt: Any, lines: deque[str]) -> Any:
    """Make a logger that keeps complaints for error messages and passes everything on."""
    levels = {"INTERNAL_ERROR": 40, "ERROR": 40, "WARNING": 30, "INFO": 20, "VERBOSE": 10}

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(str(severity).rpartition(".")[2], 20)
            if level >= 40:
                lines.append(message.strip())
            log.log(min(level, 30), "TensorRT: %s", message)

    return Logger()


def _recorder(trt: Any, lines: deque[str]) -> Any:
    """Make an error recorder that keeps what execution contexts report."""

    class Recorder(trt.IErrorRecorder):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)

        def num_errors(self) -> int:
            return len(lines)

        def get_error_code(self, index: int) -> Any:
            return trt.ErrorCodeTRT.UNSPECIFIED_ERROR

        def get_error_desc(self, index: int) -> str:
            return lines[index]

        def has_overflowed(self) -> bool:
            return len(lines) == lines.maxlen

        def clear(self) -> None:
            lines.clear()

        def report_error(self, code: Any, description: str) -> bool:
            lines.append(f"{description.strip()} ({code})")
            return True

    return Recorder()
