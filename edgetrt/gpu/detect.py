"""Score filter and compaction of large detection heads on the GPU: only candidates come back.

For a head of 84×8400 values that is a few kilobytes in place of 2.7 MB, and no pass over it on the CPU.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import ModelError

if TYPE_CHECKING:
    from edgetrt.ports import Device, DeviceBuffer, Module, Stream
    from edgetrt.types import TensorSpec

BLOCK = 64

FOUND = np.dtype(
    [
        ("box", np.float32, 4),
        ("score", np.float32),
        ("label", np.int32),
        ("index", np.int32),
        ("spare", np.int32),
    ]
)
"""A candidate: box as the head has it (centre x, centre y, width, height, in pixels of the tensor), best
score (NaN where one of its scores was not finite), class, and column of the head."""


class _Params(ctypes.Structure):
    """`struct Params` of kernels/detect.cu, field by field."""

    _fields_ = (
        ("head", ctypes.c_uint64),
        ("counters", ctypes.c_uint64),
        ("found", ctypes.c_uint64),
        ("passed", ctypes.c_uint64),
        ("classes", ctypes.c_int),
        ("candidates", ctypes.c_int),
        ("capacity", ctypes.c_int),
        ("limit", ctypes.c_float),
    )


def readable(spec: TensorSpec) -> bool:
    """Say whether a tensor is a head of the kind that the filter reads."""
    kinds = ("float32", "float16")
    return len(spec.shape) == 3 and spec.shape[1] >= 5 and spec.dtype in kinds


class CandidateFilter:
    """Filters one head tensor; made once per session, queued behind the engine.

    Args:
        device: where it runs.
        module: the compiled `detect` kernels.
        spec: of the head, [batch, 4+classes, candidates], float32 or float16.
        pointer: its device address.
        limit: lowest score that counts.

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
    ) -> None:
        if not readable(spec):
            raise ModelError(
                f"output {spec.name!r} is {spec.dtype} {list(spec.shape)}: expected float32 or"
                " float16 [N, 4+classes, candidates]"
            )
        batch, rows, candidates = spec.shape
        self._passed = device.host_buffer((batch,), "int32")
        self._counters = device.buffer(8 * batch)
        _clear(device, self._counters)
        self._found = device.host_buffer((batch, candidates * FOUND.itemsize), "uint8")
        self._rows = self._found.array.view(FOUND)
        parameters = _Params(
            pointer,
            self._counters.pointer,
            self._found.pointer,
            self._passed.pointer,
            rows - 4,
            candidates,
            candidates,
            limit,
        )
        grid = (-(-candidates // BLOCK), batch, 1)
        self._launch = module.bind(f"filter_{spec.dtype}", grid, (BLOCK, 1, 1), bytes(parameters))

    def enqueue(self, stream: Stream) -> None:
        """Queue the filter; its answer is there when the stream has got past it."""
        self._launch.enqueue(stream)

    def read(self, image: int = 0) -> NDArray[np.generic]:
        """Candidates of an image, as `FOUND`, in the head's order; a copy."""
        rows = self._rows[image, : int(self._passed.array[image])]
        return rows[rows["index"].argsort()] if len(rows) else rows

    def close(self) -> None:
        """Free its memory; may be called twice."""
        for buffer in (self._passed, self._counters, self._found):
            buffer.close()


def _clear(device: Device, buffer: DeviceBuffer) -> None:
    zeros, stream = device.host_buffer((buffer.nbytes,), "uint8"), device.stream()
    zeros.array[...] = 0
    stream.copy_in(buffer.pointer, zeros.array)
    stream.synchronize()
    stream.close()
    zeros.close()
