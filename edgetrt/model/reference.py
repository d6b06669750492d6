"""ONNX Runtime on the CPU: the reference that precision and accuracy are measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import InferenceError, ModelError

Feed = Mapping[str, NDArray[Any]]
"""Input tensors of one frame by name; also used for what comes out."""

_ERRORS_ONLY = 3


class Reference:
    """A network on ONNX Runtime's CPU provider; call it with a feed to get its outputs.

    Args:
        path: the ONNX file.
        threads: of one inference; 0 leaves the choice to ONNX Runtime.
        lean: keep memory low instead of speed high: no graph rewriting, no repacked weights.
        simulate: compute Q/DQ pairs as they are written, in floating point, as TensorRT's arithmetic
            is; otherwise this CPU's integer kernels take them, which saturate on x86 without VNNI.

    Raises:
        ModelError: ONNX Runtime cannot load it.
    """

    def __init__(
        self, path: Path, threads: int = 0, lean: bool = False, simulate: bool = False
    ) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _ERRORS_ONLY
        if lean:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.enable_cpu_mem_arena = False
            options.add_session_config_entry("session.disable_prepacking", "1")
        if simulate:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._path = path
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its error classes share no base
            raise ModelError(
                f"{path}: ONNX Runtime {ort.__version__} cannot load it: {_first_line(error)}",
                "Export with an older opset_version, or install a newer onnxruntime.",
            ) from error
        self._names: Sequence[str] = [output.name for output in self._session.get_outputs()]

    def __call__(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """Run one frame.

        Raises:
            InferenceError: ONNX Runtime refuses the feed or fails.
        """
        try:
            values = self._session.run(None, dict(feed))
        except Exception as error:  # its error classes share no base
            shapes = ", ".join(f"{name} {np.shape(value)}" for name, value in feed.items())
            raise InferenceError(
                f"{self._path}: ONNX Runtime failed on {shapes}: {_first_line(error)}"
            ) from error
        return dict(zip(self._names, values))  # noqa: B905 - strict= needs no word: same session


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
