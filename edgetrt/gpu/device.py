"""Which library opens the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from edgetrt.errors import CudaError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetrt.ports import Device

DeviceLibrary = Literal["auto", "cuda-python", "pycuda"]


def open_device(library: DeviceLibrary = "auto", ordinal: int = 0) -> Device:
    """Open a GPU through its primary context.

    Args:
        library: `auto` prefers cuda-python, which has graphs and stream priorities of its own.
        ordinal: which GPU; a Jetson has one.

    Raises:
        CudaError: no library, no driver, a driver older than the library, or no GPU; the message
            says what each library answered.
    """
    openers = _openers()
    if library != "auto":
        return openers[library](ordinal)
    answers = []
    for name, opener in openers.items():
        try:
            return opener(ordinal)
        except CudaError as error:
            answers.append(f"{name}: {error.message}")
            last = error
    raise CudaError(f"no GPU can be used ({'; '.join(answers)})", last.hint, last.status)


def _openers() -> dict[str, Callable[[int], Device]]:
    def cuda_python(ordinal: int) -> Device:
        from edgetrt.gpu.cudapython import CudaPythonDevice

        return CudaPythonDevice(ordinal)

    def pycuda(ordinal: int) -> Device:
        from edgetrt.gpu.pycuda_device import PyCudaDevice

        return PyCudaDevice(ordinal)

    return {"cuda-python": cuda_python, "pycuda": pycuda}
