"""OpenVINO on the CPU: an extra; faster than ONNX Runtime for some networks, not for others."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edgetrt.backends.tensors import Tensors, allocate, check_file, fixed
from edgetrt.errors import BackendError, InferenceError, ModelError, UnsupportedOperatorError
from edgetrt.types import Shape, TensorSpec

_INSTALL = "Install it: pip install 'edgetrt[openvino]'."
_REPORTER = "openvino_telemetry"
_UNCONVERTED = re.compile(
    r"(No conversion rule found for|does not support the following ONNX) operations: (?P<ops>.+)"
)
_NOISE = re.compile(r"^(Exception from|Check '|FrontEnd API failed|Loading input model|Summary:)")


class OpenVinoBackend:
    """Loads ONNX files (and OpenVINO's own .xml) into compiled models for the CPU.

    Args:
        precision: what OpenVINO may compute in. It would choose bfloat16 by itself where the CPU
            has it; `f32` keeps results equal to ONNX Runtime's.

    Raises:
        BackendError: OpenVINO is not installed.
    """

    name = "openvino"

    def __init__(self, precision: str = "f32") -> None:
        if find_spec("openvino") is None:
            raise BackendError("openvino: not installed", _INSTALL)
        self._precision = precision

    @property
    def version(self) -> str:
        """Of OpenVINO, without loading it where its package says so."""
        try:
            return version("openvino")
        except PackageNotFoundError:
            return str(_library().__version__)

    def load(
        self, model: Path, threads: int = 0, shapes: Mapping[str, Shape] | None = None
    ) -> OpenVinoSession:
        """Load a network file; see `Backend.load`."""
        check_file(model)
        hints = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_PRECISION_HINT": self._precision,
            "INFERENCE_NUM_THREADS": threads,
        }
        try:
            network = _read(model)
            inputs = fixed(model, (_spec(port) for port in network.inputs), shapes)
            if any(port.partial_shape.is_dynamic for port in network.inputs):
                network.reshape({spec.name: list(spec.shape) for spec in inputs})
            compiled = _core().compile_model(network, "CPU", hints)
        except _errors() as error:
            raise _explain(model, error) from error
        return OpenVinoSession(model, compiled, inputs)


class OpenVinoSession:
    """An OpenVINO infer request whose input and output tensors are arrays of our own."""

    def __init__(self, model: Path, compiled: Any, inputs: tuple[TensorSpec, ...]) -> None:
        self._model = model
        self._compiled = compiled
        self.inputs = inputs
        self.outputs = tuple(_spec(port) for port in compiled.outputs)
        self.buffers = allocate(inputs)
        self._results = allocate(self.outputs)
        self._request = compiled.create_infer_request()
        share = _library().Tensor
        for index, spec in enumerate(inputs):
            tensor = share(self.buffers[spec.name], shared_memory=True)
            self._request.set_input_tensor(index, tensor)
        for index, spec in enumerate(self.outputs):
            if spec.name in self._results:
                tensor = share(self._results[spec.name], shared_memory=True)
                self._request.set_output_tensor(index, tensor)

    def infer(self) -> Tensors:
        """Run once; see `Session.infer`."""
        if self._request is None:
            raise InferenceError(f"{self._model}: the session is closed")
        try:
            # The wrapper of this call would collect every output again; ours are bound already.
            self._request.start_async()
            self._request.wait()
        except _errors() as error:
            raise InferenceError(f"{self._model}: OpenVINO failed: {_reason(error)}") from error
        if len(self._results) == len(self.outputs):
            return self._results
        return {
            spec.name: self._request.get_output_tensor(index).data
            for index, spec in enumerate(self.outputs)
        }

    def twin(self) -> OpenVinoSession:
        """Make another infer request of the same compiled model."""
        if self._request is None:
            raise InferenceError(f"{self._model}: the session is closed")
        return OpenVinoSession(self._model, self._compiled, self.inputs)

    def close(self) -> None:
        """Let go of the request; arrays still held by a caller stay readable."""
        self._request = self._compiled = None


@lru_cache(maxsize=1)
def _library() -> Any:
    """Import OpenVINO, without what reports each import to its makers through Google.

    It does so unless a person has declined in a dialogue that nobody sees on a device, and forks the
    process for it. Where the reporting package is not installed it uses a stub of its own.

    Raises:
        BackendError: it is installed and cannot be loaded.
    """
    sys.modules.setdefault(_REPORTER, None)  # type: ignore[arg-type]  # None = not to be found
    try:
        return import_module("openvino")
    except ImportError as error:
        raise BackendError(f"openvino: cannot be loaded: {error}", _INSTALL) from error


@lru_cache(maxsize=1)
def _errors() -> tuple[type[Exception], ...]:
    """Every exception that OpenVINO raises: its readers' own derive from Exception directly."""
    own = vars(import_module("openvino.frontend")).values()
    failures = (kind for kind in own if isinstance(kind, type) and issubclass(kind, Exception))
    return (RuntimeError, ValueError, *failures)


@lru_cache(maxsize=1)
def _core() -> Any:
    return _library().Core()


def _read(model: Path) -> Any:
    """Read a network; an ONNX file by the ONNX reader alone.

    The general reader tries every format on a damaged file, and some write to the terminal.
    """
    if model.suffix != ".onnx":
        return _core().read_model(str(model))
    _core()
    reader = import_module("openvino.frontend").FrontEndManager().load_by_framework("onnx")
    return reader.convert(reader.load(str(model)))


def _spec(port: Any) -> TensorSpec:
    shape = tuple(size.get_length() if size.is_static else -1 for size in port.partial_shape)
    return TensorSpec(port.any_name, shape, np.dtype(port.element_type.to_dtype()).name)


def _reason(error: Exception) -> str:
    """What OpenVINO says, without its source positions, in one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not _NOISE.match(line)]
    text = " ".join(said) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:199]}…"


def _explain(model: Path, error: Exception) -> ModelError:
    """One of our errors for what went wrong while loading."""
    text = str(error)
    if match := _UNCONVERTED.search(text):
        return UnsupportedOperatorError(
            f"{model}: OpenVINO has no operator {match['ops'].strip()}",
            "Use `backend: onnxruntime`, or export the network without this operator.",
        )
    if "external" in text:
        return ModelError(
            f"{model}: its external data is missing or damaged: {_reason(error)}",
            "Copy the data file that belongs to the network into the same folder.",
        )
    return ModelError(
        f"{model}: not a network that OpenVINO can load: {_reason(error)}",
        "Check that the file was copied completely, and that it is ONNX.",
    )
