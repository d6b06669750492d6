"""One annotated picture of a given size at most."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

from edgetrt.errors import SinkError
from edgetrt.sinks.draw import annotate

if TYPE_CHECKING:
    from edgetrt.types import Result

_TRIES = ((1.0, 85), (1.0, 70), (1.0, 50), (0.7, 60), (0.5, 60), (0.35, 55), (0.25, 50), (0.12, 40))
"""Scale and JPEG quality, the best first."""


def jpeg(result: Result, most_bytes: int) -> bytes:
    """Draw a result and compress it until it fits.

    Raises:
        SinkError: it does not fit however small.
    """
    whole = Image.fromarray(annotate(result))
    for scale, quality in _TRIES:
        size = (max(1, round(whole.width * scale)), max(1, round(whole.height * scale)))
        out = io.BytesIO()
        picture = whole if size == whole.size else whole.resize(size, Image.Resampling.BILINEAR)
        picture.save(out, "JPEG", quality=quality)
        if out.tell() <= most_bytes:
            return out.getvalue()
    raise SinkError(f"a picture of {result.pipeline} does not fit into {most_bytes} bytes")
