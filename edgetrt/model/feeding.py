"""Whether a network can be fed with pictures, and at which size: told from its tensors alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgetrt.model.metadata import image_size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgetrt.types import Shape, TensorSpec

_CHANNELS = 3
_IMAGE_RANK = 4


def unfit(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> tuple[str, str]:
    """Why frames cannot be fed to a network, and what to do; two empty texts where they can."""
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs) or "none"
        what = f"takes {len(inputs)} inputs ({names}): expected one image"
        if state := _state(inputs, outputs):
            return (
                f"{what}. {state[0]!r} goes on from run to run as {state[1]!r}: networks with state "
                "are not supported",
                "Export it without state, or over a whole window at once.",
            )
        return what, "Fold the other inputs into the network as constants when you export it."
    (spec,) = inputs
    told = f"input {spec.name!r} is {spec.dtype} {shown(spec.shape)}"
    if image_size_of(spec) is None and not (len(spec.shape) == _IMAGE_RANK and -1 in spec.shape):
        return (
            f"takes no image: {told}, expected [1, 3, H, W] or [1, H, W, 3]",
            "edgetrt feeds networks with frames; text, sound and time series it does not.",
        )
    if not {_CHANNELS, -1} & {spec.shape[1], spec.shape[3]}:
        return (
            f"{told}: expected three channels on axis 1 or 3",
            "Repeat or drop channels inside the network when you export it: frames have three.",
        )
    if spec.shape[0] not in (1, -1):
        return (
            f"{told}: expected one image at a time",
            "Export it with batch 1, or with an open one.",
        )
    return "", ""


def sized(spec: TensorSpec, size: tuple[int, int] | None) -> TensorSpec:
    """An input with its open dimensions filled: one frame, three channels, height and width as given.

    Args:
        spec: the input; without open dimensions it is given back.
        size: height and width in pixels; None = not known, and then they stay open.
    """
    shape = spec.shape
    if len(shape) != _IMAGE_RANK:
        filled: Shape = tuple(1 if n == 0 and d < 0 else d for n, d in enumerate(shape))
    else:
        height, width = size or (-1, -1)
        last = shape[3] == _CHANNELS
        wish = (1, height, width, _CHANNELS) if last else (1, _CHANNELS, height, width)
        filled = tuple(w if d < 0 else d for w, d in zip(wish, shape, strict=True))
    return replace(spec, shape=filled)


def shown(shape: Shape) -> str:
    """A shape as people write it, `?` where it is open."""
    return f"[{', '.join('?' if dim < 0 else str(dim) for dim in shape)}]"


def _state(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> tuple[str, str] | None:
    """An input that an output of the same kind and of nearly its name carries on: `h` and `hn`."""
    for given in inputs:
        for result in outputs:
            related = given.name in result.name or result.name in given.name
            if related and (given.dtype, len(given.shape)) == (result.dtype, len(result.shape)):
                return given.name, result.name
    return None
