"""The score filter on the device finds what numpy finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetrt.gpu.detect import CandidateFilter, Candidates
from edgetrt.ports import Device, Module
from edgetrt.types import TensorSpec


def run(
    device: Device, module: Module, head: NDArray[Any], limit: float, capacity: int = 100
) -> list[Candidates]:
    device.push()
    tensor = device.host_buffer(head.shape, head.dtype.name)
    tensor.array[...] = head
    stream = device.stream()
    spec = TensorSpec("output0", head.shape, head.dtype.name)
    candidates = CandidateFilter(device, module, spec, tensor.pointer, limit, capacity)
    try:
        for _ in range(2):  # a second run starts from nothing again
            candidates.enqueue(stream)
            stream.synchronize()
        return [candidates.read(image) for image in range(head.shape[0])]
    finally:
        candidates.close()
        stream.close()
        tensor.close()
        device.pop()


def random_head(seed: int, shape: tuple[int, int, int], dtype: str) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    head = rng.random(shape)
    head[:, 4:] **= 12  # few reach the limit
    return head.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("classes", [1, 3, 80])
def test_it_finds_what_numpy_finds(
    device: Device, detect_kernels: Module, dtype: str, classes: int
) -> None:
    head = random_head(classes, (2, 4 + classes, 321), dtype)
    for image, found in enumerate(run(device, detect_kernels, head, 0.8, capacity=400)):
        scores = head[image, 4:].max(axis=0)
        picked = np.flatnonzero(scores.astype(np.float32) >= np.float32(0.8))
        np.testing.assert_array_equal(found.index, picked)
        np.testing.assert_array_equal(found.scores, scores[picked].astype(np.float32))
        np.testing.assert_array_equal(found.classes, head[image, 4:, picked].argmax(axis=1))
        np.testing.assert_array_equal(found.boxes, head[image, :4, picked].astype(np.float32))
        assert found.lost == 0


def test_what_does_not_fit_is_counted(device: Device, detect_kernels: Module) -> None:
    head = np.ones((1, 5, 200), np.float32)
    (found,) = run(device, detect_kernels, head, 0.5, capacity=64)
    assert len(found.scores) == 64
    assert found.lost == 136


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_broken_network_is_seen(device: Device, detect_kernels: Module, poison: float) -> None:
    head = np.zeros((1, 7, 64), np.float32)
    head[0, 6, 33] = poison
    (found,) = run(device, detect_kernels, head, 0.5)
    assert list(found.index) == [33]
    assert not np.isfinite(found.scores).any()


def test_nothing_is_nothing(device: Device, detect_kernels: Module) -> None:
    (found,) = run(device, detect_kernels, np.zeros((1, 5, 64), np.float32), 0.5)
    assert len(found.scores) == 0
    assert found.boxes.shape == (0, 4)
