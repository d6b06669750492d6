"""A frame into a session's own input buffer: fit, colour order, layout, scale, type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import ConfigError, ModelError
from edgetrt.geometry import Fit, fit
from edgetrt.pixels import to_rgb
from edgetrt.runtime import imaging

if TYPE_CHECKING:
    from edgetrt.config import PreprocessConfig
    from edgetrt.types import Frame, TensorSpec

Image = NDArray[np.uint8]


def layout(spec: TensorSpec, wanted: str = "auto") -> str:
    """Tell whether an image input is `nchw` or `nhwc`.

    Raises:
        ModelError: the tensor is not a batch of one image with three channels.
        ConfigError: `wanted` contradicts the tensor's shape.
    """
    shape = spec.shape
    if len(shape) != 4 or shape[0] not in (1, -1):
        raise ModelError(
            f"input {spec.name!r} has shape {list(shape)}: expected one image, [1, 3, H, W] or [1, H, W, 3]",
            "Export the network with batch 1 and an image input.",
        )
    found = [kind for kind, axis in (("nchw", 1), ("nhwc", 3)) if shape[axis] == 3]
    if not found:
        raise ModelError(
            f"input {spec.name!r} has shape {list(shape)}: expected three channels on axis 1 or 3",
            "Repeat or drop channels inside the network when you export it: frames have three.",
        )
    if wanted == "auto":
        return found[0]
    if wanted not in found:
        raise ConfigError(
            f"preprocess.layout: {wanted} does not fit input {spec.name!r} of shape {list(shape)}",
            f"Use `layout: {found[0]}` or leave it out.",
        )
    return wanted


class Preprocessor:
    """Writes frames into one input buffer; keeps the scratch images, so nothing is allocated per frame.

    Args:
        spec: the input tensor, static, one image.
        buffer: the session's memory for it, of the spec's shape; float32, float16 or uint8. A uint8
            buffer takes pixels as they are: the network scales them itself.
        config: how to fit and scale.

    Raises:
        ModelError: a shape or a type that is not an image's.
        ConfigError: `config` contradicts the tensor.
    """

    def __init__(
        self, spec: TensorSpec, buffer: NDArray[np.generic], config: PreprocessConfig
    ) -> None:
        self._config = config
        self._planar = layout(spec, config.layout) == "nchw"
        if buffer.dtype not in (np.float32, np.float16, np.uint8):
            raise ModelError(
                f"input {spec.name!r} is {buffer.dtype}: expected float32, float16 or uint8",
                "Export the network with a floating-point or uint8 image input.",
            )
        self._target = buffer[0]
        height, width = self._target.shape[1:] if self._planar else self._target.shape[:2]
        self._into = (width, height)
        self._canvas: Image = np.full((height, width, 3), config.pad, np.uint8)
        self._planes: Image = np.empty((3, height, width), np.uint8)
        self._size = (0, 0)
        self._fit = fit((1, 1), self._into, config.resize)
        self._half = (
            np.empty(self._target.shape, np.float32) if buffer.dtype == np.float16 else None
        )
        axes = (3, 1, 1) if self._planar else (3,)
        std = np.asarray(config.std, np.float64)
        self._gain = (config.scale / std).astype(np.float32).reshape(axes)
        self._bias = (-np.asarray(config.mean) / std).astype(np.float32).reshape(axes)
        if (self._gain == self._gain.flat[0]).all():
            self._gain = self._gain.flat[0]  # a scalar multiplies twice as fast
        self._shifted = bool(np.any(self._bias))

    def write(self, frame: Frame) -> Fit:
        """Fill the buffer from a frame; returns where the frame lies in it."""
        if frame.size != self._size:
            self._replan(frame.size)
        take, put = self._fit.take, self._fit.put
        source, pixels = frame.data, frame.format
        if pixels not in ("rgb", "bgr"):  # a camera's own format, where no GPU takes it as it is
            source, pixels = to_rgb(source, pixels), "rgb"
        imaging.resize(
            source[take.top : take.top + take.height, take.left : take.left + take.width],
            self._canvas[put.top : put.top + put.height, put.left : put.left + put.width],
        )
        self._scale_into(self._ordered(swap=pixels != self._config.color))
        return self._fit

    def close(self) -> None:
        """Nothing to free: the buffer is the session's."""

    def _replan(self, size: tuple[int, int]) -> None:
        """Frames of a new size leave other borders: compute the fit and repaint the padding."""
        self._size = size
        self._fit = fit(size, self._into, self._config.resize)
        self._canvas[:] = self._config.pad

    def _ordered(self, *, swap: bool) -> Image:
        """Give the canvas in the tensor's channel order and layout; a view where that is free."""
        if not self._planar:
            return self._canvas[:, :, ::-1] if swap else self._canvas
        imaging.split(self._canvas, self._planes)
        return self._planes[::-1] if swap else self._planes

    def _scale_into(self, pixels: Image) -> None:
        """Apply `(pixel * scale - mean) / std` into the buffer, in its type."""
        if self._target.dtype == np.uint8:
            np.copyto(self._target, pixels)
            return
        scaled = self._target if self._half is None else self._half
        np.multiply(pixels, self._gain, out=scaled)
        if self._shifted:
            np.add(scaled, self._bias, out=scaled)
        if self._half is not None:
            np.copyto(self._target, self._half, casting="same_kind")
