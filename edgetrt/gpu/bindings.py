"""NVIDIA's own Python bindings (cuda-python), under whichever name the installed release gives them.

The only module that imports them; every status goes through `call`.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

from edgetrt.errors import CudaError
from edgetrt.gpu.bundled import offer
from edgetrt.gpu.status import cuda_error

_INSTALL = (
    "Install `cuda-python` of the driver's major version: 11.8 for JetPack 5, 12 for 6, 13 for 7."
)


@lru_cache(maxsize=2)
def load(part: str) -> Any:
    """Import `driver` or `nvrtc`.

    Raises:
        CudaError: not installed.
    """
    offer()
    old = {"driver": "cuda.cuda", "nvrtc": "cuda.nvrtc"}[part]
    for name in (f"cuda.bindings.{part}", old):
        try:
            return import_module(name)
        except ImportError as error:
            last = error
    raise CudaError(f"cuda-python's {part} module cannot be imported: {last}", _INSTALL) from last


def call(what: str, function: Any, *arguments: Any) -> Any:
    """Call the driver; returns what it returns beside the status (a value, a tuple, or None).

    Raises:
        CudaError: any status but success, or the driver's library is not there.
    """
    try:
        status, *values = function(*arguments)
    except (
        RuntimeError
    ) as error:  # cuda-pathfinder's, and cuda-python's for functions that are missing
        raise CudaError(
            f"{what}: {error}",
            "Install the NVIDIA driver, or make it visible in this container (libcuda.so.1).",
            "CUDA_ERROR_NOT_INITIALIZED",
        ) from error
    if status:
        raise cuda_error(what, status.name)
    return values[0] if len(values) == 1 else tuple(values) or None
