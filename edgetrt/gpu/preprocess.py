"""The fused pass on the GPU: from a raw frame to the engine's input tensor.

Frames are read in page-locked memory, or where the camera wrote them (`edgetrt.gpu.surfaces`). The same
arithmetic as the CPU's preprocessing with OpenCV, kept within 1/255 by tests; what a frame looks like in
memory is told by its format (`edgetrt.types.Frame`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import CudaError, InferenceError, SourceLostError
from edgetrt.geometry import Fit, fit
from edgetrt.gpu.layout import (
    BT601,
    Planes,
    Target,
    YuvMatrix,
    arguments,
    frame_shape,
    parameters,
)
from edgetrt.gpu.surfaces import SurfacePlan

if TYPE_CHECKING:
    from edgetrt.config import PreprocessConfig
    from edgetrt.gpu.surfaces import Sharing
    from edgetrt.ports import Device, DeviceBuffer, HostBuffer, Launch, Module, Stream, Surface
    from edgetrt.types import Frame, PixelFormat

Memory = Literal["mapped", "copied"]

PLANS = 2
"""Frame sizes and formats that one preprocessor serves: the first, and one change."""

BLOCK, COLUMNS, ROWS = (64, 4, 1), 2, 2
"""Threads of a block, and tensor columns and rows of a thread (`ROWS` in the kernel)."""


def launch(module: Module, pixel_format: PixelFormat, into: Target, filled: bytes) -> Launch:
    """Bind the kernel for a format and an element type."""
    grid = (
        -(-into.width // (BLOCK[0] * COLUMNS)),
        -(-into.height // (BLOCK[1] * ROWS)),
        into.batch,
    )
    return module.bind(f"{pixel_format}_{into.dtype}", grid, BLOCK, filled)


@dataclass(frozen=True)
class HostPlan:
    """Everything for frames of one size and format that come in the host's memory."""

    key: int
    fit: Fit
    staging: HostBuffer
    slots: tuple[NDArray[np.generic], ...]
    on_device: DeviceBuffer | None
    launch: Launch

    def take(self, frame: Frame, index: int) -> None:
        """Copy a frame into page-locked memory, unless its source wrote it there.

        Raises:
            InferenceError: it is not what it says.
        """
        slot, data = self.slots[index], frame.data
        if slot.shape != data.shape:
            raise InferenceError(
                f"frame {frame.seq}: {frame.format} data of shape {data.shape}, expected {slot.shape}"
            )
        if not np.may_share_memory(slot, data):
            slot[...] = data

    def ahead(self, stream: Stream) -> None:
        """Nothing: the graph has it all."""

    def enqueue(self, stream: Stream) -> None:
        """Queue the copy, if any, and the pass over the batch."""
        if self.on_device is not None:
            stream.copy_in(self.on_device.pointer, self.staging.array)
        self.launch.enqueue(stream)

    def let_go(self) -> None:
        """Nothing: frames were copied."""

    def close(self) -> None:
        """Free its memory."""
        self.staging.close()
        if self.on_device is not None:
            self.on_device.close()


Plan = HostPlan | SurfacePlan
Sort = tuple[tuple[int, int], "PixelFormat"]
"""Of frames: size and format."""


class GpuPreprocessor:
    """Takes frames; the session queues the rest ahead of its engine.

    Args:
        device: where it runs.
        module: the compiled `preprocess` kernels.
        into: the tensor to write.
        config: how to fit.
        memory: `mapped` lets the kernel read the frame where it lies, best where the GPU shares the
            host's memory; `copied` moves it over first. Unset = by the device.
        matrix: of YUV formats in the host's memory.
        sharing: reads surfaces where they lie, one at a time; without it, and in batches, they are
            copied as other frames are.
    """

    def __init__(
        self,
        device: Device,
        module: Module,
        into: Target,
        config: PreprocessConfig,
        memory: Memory | None = None,
        matrix: YuvMatrix = BT601,
        sharing: Sharing | None = None,
    ) -> None:
        self._device, self._module, self._into = device, module, into
        self._how, self._matrix = config.resize, matrix
        self._mapped = device.info.integrated if memory is None else memory == "mapped"
        self._sharing = sharing if into.batch == 1 else None
        self._host: dict[Sort, HostPlan] = {}
        self._surfaces: dict[Sort, SurfacePlan] = {}
        self._plan: Plan | None = None
        self.key = 0

    def write(self, frame: Frame, index: int = 0) -> Fit:
        """Take a frame as image `index` of the batch; returns where it lies in the tensor.

        A surface is read where it lies, and held until the next frame. A frame that the source wrote
        into `staging` is not copied.

        Raises:
            InferenceError: the third size or format; one change is served, then the camera is wrong.
        """
        sort, pixels, sharing = (frame.size, frame.format), frame.pixels, self._sharing
        if not isinstance(pixels, np.ndarray) and sharing is not None and not sharing.refusal:
            try:
                return self._read_there(sort, pixels, sharing)
            except (CudaError, SourceLostError) as error:
                sharing.refuse(error)
        plan = self._host.get(sort) or self._plan_host(sort)
        self._use(plan)
        plan.take(frame, index)
        return plan.fit

    def staging(self, size: tuple[int, int], pixel_format: PixelFormat) -> NDArray[np.generic]:
        """Page-locked memory for a batch of frames, for sources that can write into it themselves."""
        sort = size, pixel_format
        plan = self._host.get(sort) or self._plan_host(sort)
        self._use(plan)
        return plan.staging.array

    def ahead(self, stream: Stream) -> None:
        """Queue the pass over a surface."""
        if self._plan is not None:
            self._plan.ahead(stream)

    def enqueue(self, stream: Stream) -> None:
        """Queue the copy, if any, and the pass over the batch that was written last."""
        if self._plan is None:
            raise InferenceError("no frame was written before the first inference")
        self._plan.enqueue(stream)

    def close(self) -> None:
        """Free the staging memory, and give surfaces back; may be called twice."""
        self._plan = None
        self._device.push()
        try:
            for plan in self._surfaces.values():
                plan.let_go()
            self._surfaces.clear()
            while self._host:
                self._host.popitem()[1].close()
        finally:
            self._device.pop()

    def _read_there(self, sort: Sort, surface: Surface, sharing: Sharing) -> Fit:
        """Take a surface where it lies."""
        plan = self._surfaces.get(sort) or self._plan_surfaces(sort, sharing)
        plan.take(surface)
        self._use(plan)
        return plan.fit

    def _use(self, plan: Plan) -> None:
        """Make a plan the one that is queued."""
        if plan is not self._plan:
            if self._plan is not None:
                self._plan.let_go()
            self._plan, self.key = plan, plan.key

    def _place(self, sort: Sort) -> tuple[int, Fit]:
        """Give a new plan its key, and its place in the tensor."""
        size, pixel_format = sort
        known = {**self._host, **self._surfaces}
        if sort not in known and len(known) >= PLANS:
            told = ", ".join(f"{f} {w}×{h}" for (w, h), f in known)
            raise InferenceError(
                f"frames keep changing: {pixel_format} {size[0]}×{size[1]} after {told}",
                "Fix the size at the source, such as with caps in its GStreamer pipeline.",
            )
        key = len(self._host) + len(self._surfaces) + 1
        return key, fit(size, (self._into.width, self._into.height), self._how)

    def _plan_host(self, sort: Sort) -> HostPlan:
        key, placed = self._place(sort)
        shape = (self._into.batch, *frame_shape(*sort))
        self._device.push()
        try:
            staging = self._device.host_buffer(shape, "uint8")
            on_device = None if self._mapped else self._device.buffer(staging.array.nbytes)
            pointer = staging.pointer if on_device is None else on_device.pointer
            filled = arguments(pointer, *sort, placed, self._into, self._matrix)
            bound = launch(self._module, sort[1], self._into, filled)
        finally:
            self._device.pop()
        plan = HostPlan(key, placed, staging, tuple(staging.array), on_device, bound)
        self._host[sort] = plan
        return plan

    def _plan_surfaces(self, sort: Sort, sharing: Sharing) -> SurfacePlan:
        key, placed = self._place(sort)

        def bind(planes: Planes, matrix: YuvMatrix) -> Launch:
            filled = parameters(planes, sort[1], placed, self._into, matrix)
            self._device.push()
            try:
                return launch(self._module, sort[1], self._into, filled)
            finally:
                self._device.pop()

        plan = SurfacePlan(key, placed, sort[0], self._device, sharing.mappings(), bind)
        self._surfaces[sort] = plan
        return plan
