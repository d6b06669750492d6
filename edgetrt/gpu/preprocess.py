"""The fused pass on the GPU: from a raw frame in page-locked memory to the engine's input tensor.

The same arithmetic as the CPU's preprocessing with OpenCV, kept within 1/255 by tests; what a frame
looks like in memory is told by its format (`edgetrt.types.Frame`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import InferenceError
from edgetrt.geometry import Fit, fit
from edgetrt.gpu.layout import BT601, Target, YuvMatrix, arguments, frame_shape

if TYPE_CHECKING:
    from edgetrt.config import PreprocessConfig
    from edgetrt.ports import Device, DeviceBuffer, HostBuffer, Launch, Module, Stream
    from edgetrt.types import Frame, PixelFormat

Memory = Literal["mapped", "copied"]

PLANS = 2
"""Frame sizes and formats that one preprocessor serves: the first, and one change."""

BLOCK, COLUMNS, ROWS = (64, 4, 1), 2, 2
"""Threads of a block, and tensor columns and rows of a thread (`ROWS` in the kernel)."""


def launch(module: Module, pixel_format: PixelFormat, into: Target, parameters: bytes) -> Launch:
    """Bind the kernel for a format and an element type."""
    grid = (
        -(-into.width // (BLOCK[0] * COLUMNS)),
        -(-into.height // (BLOCK[1] * ROWS)),
        into.batch,
    )
    return module.bind(f"{pixel_format}_{into.dtype}", grid, BLOCK, parameters)


@dataclass(frozen=True)
class Plan:
    """Everything for frames of one size and format."""

    key: int
    fit: Fit
    staging: HostBuffer
    slots: tuple[NDArray[np.generic], ...]
    on_device: DeviceBuffer | None
    launch: Launch

    def close(self) -> None:
        """Free its memory."""
        self.staging.close()
        if self.on_device is not None:
            self.on_device.close()


class GpuPreprocessor:
    """Takes frames into page-locked memory; the session queues the rest ahead of its engine.

    Args:
        device: where it runs.
        module: the compiled `preprocess` kernels.
        into: the tensor to write.
        config: how to fit.
        memory: `mapped` lets the kernel read the frame where it lies, best where the GPU shares the
            host's memory; `copied` moves it over first. Unset = by the device.
        matrix: of YUV formats.
    """

    def __init__(
        self,
        device: Device,
        module: Module,
        into: Target,
        config: PreprocessConfig,
        memory: Memory | None = None,
        matrix: YuvMatrix = BT601,
    ) -> None:
        self._device, self._module, self._into = device, module, into
        self._how, self._matrix = config.resize, matrix
        self._mapped = device.info.integrated if memory is None else memory == "mapped"
        self._plans: dict[tuple[tuple[int, int], PixelFormat], Plan] = {}
        self._plan: Plan | None = None
        self._wanted: tuple[tuple[int, int], PixelFormat] | None = None
        self.key = 0

    def write(self, frame: Frame, index: int = 0) -> Fit:
        """Take a frame as image `index` of the batch; returns where it lies in the tensor.

        A frame that the source wrote into `staging` is not copied.

        Raises:
            InferenceError: the third size or format; one change is served, then the camera is wrong.
        """
        plan = self._switch(frame.size, frame.format)
        slot, data = plan.slots[index], frame.data
        if slot.shape != data.shape:
            raise InferenceError(
                f"frame {frame.seq}: {frame.format} data of shape {data.shape}, expected {slot.shape}"
            )
        if not np.may_share_memory(slot, data):
            slot[...] = data
        return plan.fit

    def staging(self, size: tuple[int, int], pixel_format: PixelFormat) -> NDArray[np.generic]:
        """Page-locked memory for a batch of frames, for sources that can write into it themselves."""
        return self._switch(size, pixel_format).staging.array

    def enqueue(self, stream: Stream) -> None:
        """Queue the copy, if any, and the pass over the batch that was written last."""
        plan = self._plan
        if plan is None:
            raise InferenceError("no frame was written before the first inference")
        if plan.on_device is not None:
            stream.copy_in(plan.on_device.pointer, plan.staging.array)
        plan.launch.enqueue(stream)

    def close(self) -> None:
        """Free the staging memory; may be called twice."""
        self._plan = self._wanted = None
        self._device.push()
        try:
            while self._plans:
                self._plans.popitem()[1].close()
        finally:
            self._device.pop()

    def _switch(self, size: tuple[int, int], pixel_format: PixelFormat) -> Plan:
        """Make the plan for these frames current, planning when they are new."""
        wanted = (size, pixel_format)
        plan = self._plan
        if plan is None or wanted != self._wanted:
            plan = self._plans.get(wanted) or self._plans.setdefault(
                wanted, self._make(size, pixel_format)
            )
            self._plan, self._wanted, self.key = plan, wanted, plan.key
        return plan

    def _make(self, size: tuple[int, int], pixel_format: PixelFormat) -> Plan:
        if len(self._plans) >= PLANS:
            known = ", ".join(f"{f} {w}×{h}" for (w, h), f in self._plans)
            raise InferenceError(
                f"frames keep changing: {pixel_format} {size[0]}×{size[1]} after {known}",
                "Fix the size at the source, such as with caps in its GStreamer pipeline.",
            )
        shape = (self._into.batch, *frame_shape(size, pixel_format))
        placed = fit(size, (self._into.width, self._into.height), self._how)
        self._device.push()
        try:
            staging = self._device.host_buffer(shape, "uint8")
            on_device = None if self._mapped else self._device.buffer(staging.array.nbytes)
            pointer = staging.pointer if on_device is None else on_device.pointer
            parameters = arguments(pointer, size, pixel_format, placed, self._into, self._matrix)
            bound = launch(self._module, pixel_format, self._into, parameters)
        finally:
            self._device.pop()
        return Plan(len(self._plans) + 1, placed, staging, tuple(staging.array), on_device, bound)
