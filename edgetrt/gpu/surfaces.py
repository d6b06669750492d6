"""The fused pass over pictures that stay where the camera wrote them.

Each picture lies somewhere else, so the pass is launched ahead of the session's graph and not in it. What
CUDA refuses once is not tried again: pictures are then copied, as those of any other camera.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edgetrt.errors import CudaError, EdgetrtError
from edgetrt.gpu.egl import EglDriver, Mappings
from edgetrt.gpu.layout import MATRICES

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetrt.geometry import Fit
    from edgetrt.gpu.layout import Planes, YuvMatrix
    from edgetrt.ports import Device, Launch, Stream, Surface

log = logging.getLogger(__name__)


class Sharing:
    """Whether the lanes of a network read pictures where they lie.

    Args:
        device: the GPU.
        driver: CUDA's calls for EGL; those of this machine when not given.

    Attributes:
        refusal: why they do not; empty while they do.
    """

    def __init__(self, device: Device, driver: EglDriver | None = None) -> None:
        self.refusal = ""
        self._device, self._driver = device, driver

    def mappings(self) -> Mappings:
        """Give a lane what it registers memory with.

        Raises:
            CudaError: this driver has no calls for EGL.
        """
        self._driver = self._driver or EglDriver()
        return Mappings(self._device, self._driver)

    def refuse(self, error: EdgetrtError) -> None:
        """Leave it be from now on; a lost context is raised again.

        Raises:
            CudaError: every later call fails as well.
        """
        if isinstance(error, CudaError) and error.fatal:
            raise error
        self.refusal = error.message
        log.warning(
            "pictures are copied to the GPU instead of read where they lie: %s %s",
            error.message,
            error.hint,
        )


class SurfacePlan:
    """The pass over surfaces of one size and format.

    Args:
        key: of the plan.
        fit: where frames lie in the tensor.
        size: of the frames.
        device: pushed for the launch.
        mappings: its own.
        bind: makes the launch for a picture that lies there, in those colours.
    """

    def __init__(
        self,
        key: int,
        fit: Fit,
        size: tuple[int, int],
        device: Device,
        mappings: Mappings,
        bind: Callable[[Planes, YuvMatrix], Launch],
    ) -> None:
        self.key, self.fit = key, fit
        self._size, self._device = size, device
        self._mappings, self._bind = mappings, bind
        self._taken: tuple[Launch, Surface] | None = None

    def take(self, surface: Surface) -> None:
        """Take a picture, which is held until the next one: by then the GPU has read it.

        Raises:
            CudaError: CUDA does not take its memory.
            SourceLostError: nothing can be made of its memory that CUDA takes.
        """
        mapping = self._mappings.of(surface, self._size)
        launch = mapping.launch
        if launch is None:
            launch = mapping.launch = self._bind(mapping.planes, MATRICES[surface.color])
        self._taken = launch, surface

    def ahead(self, stream: Stream) -> None:
        """Queue the pass."""
        if self._taken is not None:
            self._device.push()
            try:
                self._taken[0].enqueue(stream)
            finally:
                self._device.pop()

    def enqueue(self, stream: Stream) -> None:
        """Nothing is left for the graph."""

    def let_go(self) -> None:
        """Give the picture back, and the camera's memory; nothing of the lane may still run."""
        self._taken = None
        self._mappings.close()
