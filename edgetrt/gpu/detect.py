"""Score filter and compaction of large detection heads on the GPU: only candidates come back.

For a head of 84×8400 values that is a few kilobytes in place of 2.7 MB, and no pass over it on the CPU.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import ModelError

if TYPE_CHECKING:
    from edgetrt.ports import Device, Module, Stream
    from edgetrt.types import TensorSpec

BLOCK = 64

_FOUND = np.dtype(
    [
        ("box", np.float32, 4),
        ("score", np.float32),
        ("label", np.int32),
        ("index", np.int32),
        ("spare", np.int32),
    ]
)


class _Params(ctypes.Structure):
    """`struct Params` of kernels/detect.cu, field by field."""

    _fields_ = (
        ("head", ctypes.c_uint64),
        ("count", ctypes.c_uint64),
        ("found", ctypes.c_uint64),
        ("classes", ctypes.c_int),
        ("candidates", ctypes.c_int),
        ("capacity", ctypes.c_int),
        ("limit", ctypes.c_float),
    )


@dataclass(frozen=True)
class Candidates:
    """What passed the filter in one image, in the head's order.

    Attributes:
        boxes: float32 n×4, centre x, centre y, width, height, in pixels of the tensor.
        scores: float32 n; NaN where a score of the candidate was not finite.
        classes: int32 n.
        index: int32 n, column of the head.
        lost: candidates that passed beyond the capacity.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]
    index: NDArray[np.int32]
    lost: int


class CandidateFilter:
    """Filters one head tensor; made once per session, queued behind the engine.

    Args:
        device: where it runs.
        module: the compiled `detect` kernels.
        spec: of the head, [batch, 4+classes, candidates], float32 or float16.
        pointer: its device address.
        limit: lowest score that counts.
        capacity: most candidates of an image.

    Raises:
        ModelError: the tensor is no such head.
    """

    def __init__(
        self,
        device: Device,
        module: Module,
        spec: TensorSpec,
        pointer: int,
        limit: float,
        capacity: int = 1024,
    ) -> None:
        if len(spec.shape) != 3 or spec.shape[1] < 5 or spec.dtype not in ("float32", "float16"):
            raise ModelError(
                f"output {spec.name!r} is {spec.dtype} {list(spec.shape)}: expected float32 or"
                " float16 [N, 4+classes, candidates]"
            )
        batch, rows, candidates = spec.shape
        self._capacity = capacity
        self._zeros = device.host_buffer((batch,), "int32")
        self._zeros.array[...] = 0
        self._count = device.host_buffer((batch,), "int32")
        self._counters = device.buffer(4 * batch)
        self._found = device.host_buffer((batch, capacity * _FOUND.itemsize), "uint8")
        self._rows = self._found.array.view(_FOUND)
        parameters = _Params(
            pointer,
            self._counters.pointer,
            self._found.pointer,
            rows - 4,
            candidates,
            capacity,
            limit,
        )
        grid = (-(-candidates // BLOCK), batch, 1)
        self._launch = module.bind(f"filter_{spec.dtype}", grid, (BLOCK, 1, 1), bytes(parameters))

    def enqueue(self, stream: Stream) -> None:
        """Queue the filter; its answer is there when the stream has got past it."""
        stream.copy_in(self._counters.pointer, self._zeros.array)
        self._launch.enqueue(stream)
        stream.copy_out(self._count.array, self._counters.pointer)

    def read(self, image: int = 0) -> Candidates:
        """Copy an image's candidates, put back into the head's order."""
        passed = int(self._count.array[image])
        rows = self._rows[image, : min(passed, self._capacity)]
        rows = rows[np.argsort(rows["index"], kind="stable")]
        lost = passed - len(rows)
        return Candidates(rows["box"], rows["score"], rows["label"], rows["index"], lost)

    def close(self) -> None:
        """Free its memory; may be called twice."""
        for buffer in (self._zeros, self._count, self._counters, self._found):
            buffer.close()
