"""CUDA's answers in words: what each status means for a person, and which of them end the process.

Names and meanings: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html
"""

from __future__ import annotations

from edgetrt.errors import CudaError

HINTS = {
    "CUDA_ERROR_OUT_OF_MEMORY": "Free memory: fewer or smaller networks, a lower depth, or a smaller"
    " builder workspace; on a Jetson the GPU shares the board's memory with everything else.",
    "CUDA_ERROR_NO_DEVICE": "No GPU is visible to this process: check `ls /dev/nvidia*`, the"
    " container's runtime, and that this user may open the device.",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "The driver's kernel module and its library differ: reboot"
    " after a driver update.",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "Remove CUDA's forward-compatibility package: this"
    " GPU does not support it.",
    "CUDA_ERROR_STUB_LIBRARY": "The toolkit's stub of libcuda is found before the driver's: take the"
    " `stubs` folder off the library path.",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "The kernels were compiled for another GPU: empty the kernel cache.",
    "CUDA_ERROR_INVALID_PTX": "The kernels were compiled for another GPU: empty the kernel cache.",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "The compiler is newer than the driver: use the toolkit that"
    " the driver came with.",
    "CUDA_ERROR_NOT_SUPPORTED": "This driver or this device does not offer it.",
    "CUDA_ERROR_INVALID_CONTEXT": "Push the device's context in this thread before using it.",
}

FATAL = frozenset(
    "CUDA_ERROR_" + name
    for name in (
        "ECC_UNCORRECTABLE",
        "NVLINK_UNCORRECTABLE",
        "ILLEGAL_ADDRESS",
        "LAUNCH_TIMEOUT",
        "CONTEXT_IS_DESTROYED",
        "ASSERT",
        "HARDWARE_STACK_ERROR",
        "ILLEGAL_INSTRUCTION",
        "MISALIGNED_ADDRESS",
        "INVALID_ADDRESS_SPACE",
        "INVALID_PC",
        "LAUNCH_FAILED",
        "TENSOR_MEMORY_LEAK",
        "CONTAINED",
        "MPS_CLIENT_TERMINATED",
        "EXTERNAL_DEVICE",
        "UNKNOWN",
    )
)
"""Statuses that stick: the context answers every later call with them."""

_LOST = "The GPU's context is lost for this process; it has to end, and systemd starts it again."


def cuda_error(what: str, status: str, detail: str = "") -> CudaError:
    """Word a CUDA status.

    Args:
        what: was asked, and of which object: `allocating 4.0 MiB`.
        status: CUDA's name of its answer.
        detail: more that is known, such as free memory.
    """
    fatal = status in FATAL
    message = f"{what}: {status}" + (f" ({detail})" if detail else "")
    return CudaError(message, _LOST if fatal else HINTS.get(status, ""), status, fatal)


def mebibytes(nbytes: int) -> str:
    """Bytes for a person."""
    return f"{nbytes / 2**20:.1f} MiB"
