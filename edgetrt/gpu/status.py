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


_STATUSES = {
    "invalid argument": "INVALID_VALUE",
    "out of memory": "OUT_OF_MEMORY",
    "initialization error": "NOT_INITIALIZED",
    "driver shutting down": "DEINITIALIZED",
    "no CUDA-capable device is detected": "NO_DEVICE",
    "invalid device ordinal": "INVALID_DEVICE",
    "device kernel image is invalid": "INVALID_IMAGE",
    "invalid device context": "INVALID_CONTEXT",
    "no kernel image is available for execution on the device": "NO_BINARY_FOR_GPU",
    "uncorrectable ECC error encountered": "ECC_UNCORRECTABLE",
    "a PTX JIT compilation failed": "INVALID_PTX",
    "the provided PTX was compiled with an unsupported toolchain.": "UNSUPPORTED_PTX_VERSION",
    "invalid resource handle": "INVALID_HANDLE",
    "named symbol not found": "NOT_FOUND",
    "device not ready": "NOT_READY",
    "an illegal memory access was encountered": "ILLEGAL_ADDRESS",
    "too many resources requested for launch": "LAUNCH_OUT_OF_RESOURCES",
    "the launch timed out and was terminated": "LAUNCH_TIMEOUT",
    "context is destroyed": "CONTEXT_IS_DESTROYED",
    "device-side assert triggered": "ASSERT",
    "hardware stack error": "HARDWARE_STACK_ERROR",
    "an illegal instruction was encountered": "ILLEGAL_INSTRUCTION",
    "misaligned address": "MISALIGNED_ADDRESS",
    "operation not supported on global/shared address space": "INVALID_ADDRESS_SPACE",
    "invalid program counter": "INVALID_PC",
    "unspecified launch failure": "LAUNCH_FAILED",
    "operation not supported": "NOT_SUPPORTED",
    "system has unsupported display driver / cuda driver combination": "SYSTEM_DRIVER_MISMATCH",
    "operation not permitted when stream is capturing": "STREAM_CAPTURE_UNSUPPORTED",
    "unknown error": "UNKNOWN",
}
"""The driver's words (cuGetErrorString) to CUDA's names: the words are all that PyCUDA passes on."""


def status_of(words: str) -> str:
    """Find CUDA's name of a status in PyCUDA's message, `cuMemAlloc failed: out of memory`."""
    told = words.partition(" failed: ")[2].partition(" - ")[0].strip()
    return f"CUDA_ERROR_{_STATUSES[told]}" if told in _STATUSES else "CUDA_ERROR"


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
