"""Memory that a camera shares, as CUDA sees it: an EGL image registered with the driver.

Registering takes milliseconds, and cameras use a few buffers in turn, so each is registered once and kept
until the camera is opened anew. Calls, `CUeglFrame` and its numbers: cudaEGL.h, described in
https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__EGL.html
"""

from __future__ import annotations

import ctypes
import logging
from typing import TYPE_CHECKING

from edgetrt.errors import CudaError
from edgetrt.gpu.driver import LIBRARY
from edgetrt.gpu.layout import Planes

if TYPE_CHECKING:
    from collections.abc import Hashable

    from edgetrt.ports import Device, Launch, Surface

log = logging.getLogger(__name__)

MOST = 32
"""Registered at a time; a camera with more buffers than these is registered again and again."""

_NO_FLAGS = 0
"""CU_GRAPHICS_REGISTER_FLAGS_NONE: drivers refuse the one for reading only."""

_PITCH, _BYTES = 1, 1
"""CU_EGL_FRAME_TYPE_PITCH and CU_AD_FORMAT_UNSIGNED_INT8."""

_ROWS = "Let nvvidconv lay pictures out in rows: `! nvvidconv bl-output=false ! video/x-raw(memory:NVMM)`."


class EglFrame(ctypes.Structure):
    """`CUeglFrame`; `planes` are addresses where `frameType` says so, else handles of arrays."""

    _fields_ = (
        ("planes", ctypes.c_void_p * 3),
        *((name, ctypes.c_uint) for name in ("width", "height", "depth", "pitch")),
        *((name, ctypes.c_uint) for name in ("planeCount", "numChannels")),
        *((name, ctypes.c_int) for name in ("frameType", "eglColorFormat", "cuFormat")),
    )


class EglDriver:
    """The driver's calls for EGL images; a device's context must be current.

    Raises:
        CudaError: the library is not there, or has not these calls.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        handle = ctypes.c_void_p
        calls = {
            "cuGraphicsEGLRegisterImage": (ctypes.POINTER(handle), handle, ctypes.c_uint),
            "cuGraphicsResourceGetMappedEglFrame": (
                *(ctypes.POINTER(EglFrame), handle),
                *(ctypes.c_uint, ctypes.c_uint),
            ),
            "cuGraphicsUnregisterResource": (handle,),
            "cuGetErrorName": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
        }
        try:
            self._cu = ctypes.CDLL(library)
            for name, kinds in calls.items():
                getattr(self._cu, name).argtypes = kinds
        except (OSError, AttributeError) as error:
            raise CudaError(f"CUDA's calls for EGL cannot be used: {error}") from error

    def register(self, image: int) -> int:
        """Make an EGL image a resource of CUDA's."""
        resource = ctypes.c_void_p()
        status = self._cu.cuGraphicsEGLRegisterImage(ctypes.byref(resource), image, _NO_FLAGS)
        self._check("cuGraphicsEGLRegisterImage", status)
        return resource.value or 0

    def frame(self, resource: int) -> EglFrame:
        """Describe a resource's memory."""
        frame = EglFrame()
        status = self._cu.cuGraphicsResourceGetMappedEglFrame(ctypes.byref(frame), resource, 0, 0)
        self._check("cuGraphicsResourceGetMappedEglFrame", status)
        return frame

    def unregister(self, resource: int) -> None:
        """Take the image back from CUDA."""
        self._check("cuGraphicsUnregisterResource", self._cu.cuGraphicsUnregisterResource(resource))

    def _check(self, call: str, status: int) -> None:
        """Raise what a status means; whether it took the context with it, the next launch will tell."""
        if status:
            name = ctypes.c_char_p()
            self._cu.cuGetErrorName(status, ctypes.byref(name))
            told = (name.value or b"CUDA_ERROR_UNKNOWN").decode()
            raise CudaError(f"{call}: {told}", "", told)


class Mapping:
    """One memory of a camera's, where the GPU reads it.

    Attributes:
        planes: where.
        launch: what reads it, for whoever binds that.

    Raises:
        CudaError: CUDA does not take it, or sees something else than was said of it.
        SourceLostError: there is no EGL image of it.
    """

    def __init__(self, driver: EglDriver, surface: Surface, size: tuple[int, int]) -> None:
        self.launch: Launch | None = None
        self._driver, self._resource = driver, 0
        image, self._free_image = surface.egl_image()
        try:
            self._resource = driver.register(image)
            self.planes = _planes(driver.frame(self._resource), surface.pitches, size)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give it back, CUDA's part first; nothing that reads it may still run."""
        resource, self._resource = self._resource, 0
        if resource:
            try:
                self._driver.unregister(resource)
            except CudaError as error:
                log.warning("a camera's memory stays with the GPU: %s", error.message)
        self._free_image()


class Mappings:
    """What one plan of one lane has registered, by memory.

    Args:
        device: whose context is pushed for it.
        driver: the calls.
    """

    def __init__(self, device: Device, driver: EglDriver) -> None:
        self._device, self._driver = device, driver
        self._known: dict[Hashable, Mapping] = {}
        self._stream: object = None

    def of(self, surface: Surface, size: tuple[int, int]) -> Mapping:
        """Find a surface's mapping, registering memory that is new; the lane must not be at work.

        Raises:
            CudaError: CUDA does not take it.
            SourceLostError: there is no EGL image of it.
        """
        if surface.stream is not self._stream:
            self.close()
            self._stream = surface.stream
        found = self._known.get(surface.memory)
        return self._register(surface, size) if found is None else found

    def close(self) -> None:
        """Give everything back; may be called twice."""
        while self._known:
            self._drop(next(iter(self._known)))

    def _register(self, surface: Surface, size: tuple[int, int]) -> Mapping:
        if len(self._known) >= MOST:
            self._drop(next(iter(self._known)))
        self._device.push()
        try:
            made = self._known[surface.memory] = Mapping(self._driver, surface, size)
        finally:
            self._device.pop()
        return made

    def _drop(self, memory: Hashable) -> None:
        self._device.push()
        try:
            self._known.pop(memory).close()
        finally:
            self._device.pop()


def _planes(frame: EglFrame, pitches: tuple[int, ...], size: tuple[int, int]) -> Planes:
    """Read where a frame's planes are, if a kernel can read them."""
    if frame.frameType != _PITCH:
        raise CudaError("CUDA sees the camera's picture as an array (block-linear)", _ROWS)
    addresses = [address or 0 for address in frame.planes[: len(pitches)]]
    seen = (frame.width, frame.height), frame.planeCount, frame.pitch, frame.cuFormat
    if seen != (size, len(pitches), pitches[0], _BYTES) or not all(addresses):
        raise CudaError(
            f"CUDA sees {frame.planeCount} planes of {frame.width}×{frame.height} with rows of"
            f" {frame.pitch} bytes in format {frame.cuFormat}, expected {len(pitches)} of"
            f" {size[0]}×{size[1]} with rows of {pitches[0]}",
            _ROWS,
        )
    if any(number % 4 for number in (*addresses, *pitches)):
        raise CudaError(f"rows at {addresses} in steps of {list(pitches)}, expected multiples of 4")
    return Planes(addresses[0], pitches[0], addresses[-1], pitches[-1])
