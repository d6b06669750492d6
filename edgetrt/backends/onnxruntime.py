"""ONNX Runtime on the CPU: always installed, and the reference for every other backend."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgetrt.backends.tensors import Tensors, allocate, check_file, fixed
from edgetrt.errors import BackendError, InferenceError, ModelError, UnsupportedOperatorError
from edgetrt.types import Shape, TensorSpec

_FATAL = 4  # ONNX Runtime's log level; what goes wrong arrives as an exception already

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{f"tensor({kind})": kind for kind in ("int8", "int16", "int32", "int64")},
    **{f"tensor({kind})": kind for kind in ("uint8", "uint16", "uint32", "uint64")},
}

_UNSUPPORTED = (
    re.compile(r"No Op registered for (?P<op>\S+)"),
    re.compile(r"(?P<op>[\w.]*:?\w+)\(-?\d+\) is not a registered function/op"),
    re.compile(r"Could not find an implementation for (?P<op>[\w.]+)\(\d+\)"),
)
_OPSET = re.compile(r"Opset (?P<version>\d+) is under development")
_DATA_FILE = re.compile(r"(GetFileLength for |does not exist: \"?)(?P<file>[^\"]+?)(\"| failed|$)")
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?", re.S)
_POSITION = re.compile(r"/?[\w/]+\.(cc|h):\d+ (\w+ (?=[A-Z]))?")


class OnnxRuntimeBackend:
    """Loads ONNX files into ONNX Runtime sessions.

    Args:
        spin_us: how long a worker thread without work spins before it sleeps; None = as long as the
            library does. Twenty microseconds bridge the gap between two operators and no more: as
            fast as spinning on when the cores are ours, and half the time when others want them
            (docs/measurements/pipeline.md). Versions that do not know the setting spin on.

    Raises:
        BackendError: ONNX Runtime is not installed.
    """

    name = "onnxruntime"

    def __init__(self, spin_us: int | None = 20) -> None:
        if find_spec("onnxruntime") is None:
            raise BackendError(
                "onnxruntime: not installed", "Install it: pip install onnxruntime (1.17 or newer)."
            )
        self._spin_us = spin_us

    @property
    def version(self) -> str:
        """Of ONNX Runtime, without loading it where its package says so."""
        for package in ("onnxruntime", "onnxruntime-gpu"):
            try:
                return version(package)
            except PackageNotFoundError:
                continue
        return str(_library().__version__)

    def load(
        self, model: Path, threads: int = 0, shapes: Mapping[str, Shape] | None = None
    ) -> OnnxRuntimeSession:
        """Load an ONNX file; see `Backend.load`."""
        check_file(model)
        ort = _library()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = _FATAL
        if self._spin_us is not None:
            spins, lasts = "session.intra_op.allow_spinning", "session.intra_op.spin_duration_us"
            options.add_session_config_entry(spins, str(int(self._spin_us > 0)))
            options.add_session_config_entry(lasts, str(self._spin_us))
        try:
            engine = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except _errors() as error:
            raise _explain(model, error) from error
        inputs = fixed(model, (_spec(model, arg) for arg in engine.get_inputs()), shapes)
        return OnnxRuntimeSession(model, engine, inputs)


class OnnxRuntimeSession:
    """An `onnxruntime.InferenceSession` with inputs and outputs bound once to arrays of our own."""

    def __init__(self, model: Path, engine: Any, inputs: tuple[TensorSpec, ...]) -> None:
        self._model = model
        self._engine = engine
        self.inputs = inputs
        self.outputs = _outputs(model, engine, inputs)
        self.buffers = allocate(inputs)
        self._results = allocate(self.outputs)
        self._unsized = tuple(s.name for s in self.outputs if s.name not in self._results)
        self._binding = _bind(engine, self.buffers, self._results)

    def infer(self) -> Tensors:
        """Run once; see `Session.infer`."""
        if self._engine is None:
            raise InferenceError(f"{self._model}: the session is closed")
        for name in self._unsized:  # or it would insist on the size of the run before
            self._binding.bind_output(name, "cpu")
        try:
            self._engine.run_with_iobinding(self._binding)
        except _errors() as error:
            raise InferenceError(f"{self._model}: ONNX Runtime failed: {_reason(error)}") from error
        if not self._unsized:
            return self._results
        values = zip(self.outputs, self._binding.get_outputs(), strict=True)
        return {spec.name: value.numpy() for spec, value in values}

    def twin(self) -> OnnxRuntimeSession:
        """Bind the same engine to buffers of its own: `run` may be entered by several threads."""
        if self._engine is None:
            raise InferenceError(f"{self._model}: the session is closed")
        return OnnxRuntimeSession(self._model, self._engine, self.inputs)

    def close(self) -> None:
        """Let go of the engine; arrays still held by a caller stay readable."""
        self._engine = self._binding = None


@lru_cache(maxsize=1)
def _library() -> Any:
    """Import ONNX Runtime and silence its log.

    Raises:
        BackendError: it is installed and cannot be loaded.
    """
    try:
        ort = import_module("onnxruntime")
    except ImportError as error:
        raise BackendError(
            f"onnxruntime: cannot be loaded: {error}", "Install it again for this Python and CPU."
        ) from error
    ort.set_default_logger_severity(_FATAL)
    return ort


@lru_cache(maxsize=1)
def _errors() -> tuple[type[Exception], ...]:
    """Every exception that ONNX Runtime raises: its own derive from Exception directly."""
    _library()
    state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    own = [kind for kind in vars(state).values() if isinstance(kind, type)]
    return (RuntimeError, ValueError, *(kind for kind in own if issubclass(kind, Exception)))


def _bind(engine: Any, inputs: Tensors, results: Tensors) -> Any:
    """Bind arrays by their address; an output of unknown size is bound before each run."""
    share = _library().OrtValue.ortvalue_from_numpy
    binding = engine.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, share(array))
    for name, array in results.items():
        binding.bind_ortvalue_output(name, share(array))
    return binding


def _spec(model: Path, arg: Any) -> TensorSpec:
    if arg.type not in _DTYPES:
        raise ModelError(
            f"{model}: tensor '{arg.name}' has type {arg.type}, expected a tensor of numbers",
            "Cut the network before this tensor, or cast it.",
        )
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in arg.shape)
    return TensorSpec(arg.name, shape, _DTYPES[arg.type])


def _outputs(
    model: Path,
    engine: Any,
    inputs: tuple[TensorSpec, ...],
) -> tuple[TensorSpec, ...]:
    """Output specs; a symbolic size that an input fixes ('batch') is known here as well."""
    sizes = {
        symbol: size
        for arg, spec in zip(engine.get_inputs(), inputs, strict=True)
        for symbol, size in zip(arg.shape, spec.shape, strict=True)
        if isinstance(symbol, str)
    }
    specs = []
    for arg in engine.get_outputs():
        spec = _spec(model, arg)
        known = zip(arg.shape, spec.shape, strict=True)
        shape = tuple(sizes.get(symbol, size) for symbol, size in known)
        specs.append(TensorSpec(spec.name, shape, spec.dtype))
    return tuple(specs)


def _reason(error: Exception) -> str:
    """What ONNX Runtime says, without its codes and source positions, in one line."""
    text = " ".join(_POSITION.sub("", _PREFIX.sub("", str(error))).split())
    return text if len(text) <= 200 else f"{text[:199]}…"


def _explain(model: Path, error: Exception) -> ModelError:
    """One of our errors for what went wrong while loading."""
    text = str(error)
    for pattern in _UNSUPPORTED:
        if match := pattern.search(text):
            return UnsupportedOperatorError(
                f"{model}: ONNX Runtime has no operator {match['op']} for the opset and the types "
                "that this network uses it with",
                "Update onnxruntime, or export the network without this operator.",
            )
    if match := _OPSET.search(text):
        return UnsupportedOperatorError(
            f"{model}: written for ONNX opset {match['version']}, too new for this ONNX Runtime",
            "Update onnxruntime, or export the network with a lower opset (17 runs everywhere).",
        )
    if "xternal data" in text or "GetFileLength" in text:
        missing = _DATA_FILE.search(text)
        what = missing["file"] if missing else _reason(error)
        return ModelError(
            f"{model}: its external data is missing or damaged: {what}",
            "Copy the data file that belongs to the network into the same folder.",
        )
    return ModelError(
        f"{model}: not an ONNX network that ONNX Runtime can load: {_reason(error)}",
        "Check that the file was copied completely, and that it is ONNX.",
    )
