"""No decoding: the network's own tensors, copied because the session reuses its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgetrt.types import RawOutput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgetrt.geometry import Fit


class Raw:
    """Passes every output tensor on as it is."""

    def decode(
        self, tensors: Mapping[str, NDArray[np.generic]], placed: Fit, size: tuple[int, int]
    ) -> RawOutput:
        """Copy the tensors; where the frame lay is of no interest."""
        return RawOutput({name: np.array(tensor) for name, tensor in tensors.items()})
