"""No decoding: the network's own tensors, copied because the session reuses its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgetrt.errors import ConfigError
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

    def tuned(self, **limits: Any) -> Raw:
        """Refuse: nothing is decoded, so nothing is left out."""
        raise ConfigError(f"{', '.join(limits)}: this pipeline's task is raw, which has no limits")
