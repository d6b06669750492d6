"""The score filter on the device finds what numpy finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetrt.config import TaskConfig
from edgetrt.errors import InferenceError, ModelError
from edgetrt.geometry import fit
from edgetrt.gpu.detect import CandidateFilter, readable
from edgetrt.ports import Device, Module
from edgetrt.runtime.tasks.detect import Detector
from edgetrt.types import TensorSpec


def run(device: Device, module: Module, head: NDArray[Any], limit: float) -> list[NDArray[Any]]:
    device.push()
    tensor = device.host_buffer(head.shape, head.dtype.name)
    tensor.array[...] = head
    stream = device.stream()
    spec = TensorSpec("output0", head.shape, head.dtype.name)
    candidates = CandidateFilter(device, module, spec, tensor.pointer, limit)
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
    for image, found in enumerate(run(device, detect_kernels, head, 0.8)):
        scores = head[image, 4:].max(axis=0)
        picked = np.flatnonzero(scores.astype(np.float32) >= np.float32(0.8))
        np.testing.assert_array_equal(found["index"], picked)
        np.testing.assert_array_equal(found["score"], scores[picked].astype(np.float32))
        np.testing.assert_array_equal(found["label"], head[image, 4:, picked].argmax(axis=1))
        np.testing.assert_array_equal(found["box"], head[image, :4, picked].astype(np.float32))


def test_every_candidate_may_pass(device: Device, detect_kernels: Module) -> None:
    (found,) = run(device, detect_kernels, np.ones((1, 5, 200), np.float32), 0.5)
    np.testing.assert_array_equal(found["index"], np.arange(200))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("only", [None, ("a", "c")])
@pytest.mark.parametrize("crowd", [3, 12])
def test_the_boxes_are_those_of_the_whole_head(
    device: Device, detect_kernels: Module, dtype: str, only: tuple[str, ...] | None, crowd: int
) -> None:
    shape = (1, 7, 1500)
    head = np.random.default_rng(crowd).random(shape)
    head[:, :4] *= 100
    head[:, 4:] = np.round(head[:, 4:] ** crowd, 2)  # equal scores: their order counts too
    head = head.astype(dtype)
    config = TaskConfig(score=0.25, only=only)
    detector = Detector((TensorSpec("y", shape, dtype),), ("a", "b", "c"), config)
    name = "y"
    (found,) = run(device, detect_kernels, head, config.score)
    placed = fit((200, 100), (100, 100), "letterbox")
    whole = detector.decode({name: head}, placed, (200, 100))
    filtered = detector.decode({name: found}, placed, (200, 100))
    assert len(whole) > 10
    np.testing.assert_array_equal(filtered.boxes, whole.boxes)
    np.testing.assert_array_equal(filtered.scores, whole.scores)
    np.testing.assert_array_equal(filtered.classes, whole.classes)


def test_what_is_filtered_away_is_an_empty_picture(device: Device, detect_kernels: Module) -> None:
    detector = Detector((TensorSpec("y", (1, 5, 64), "float32"),), ("a",), TaskConfig())
    (found,) = run(device, detect_kernels, np.zeros((1, 5, 64), np.float32), 0.5)
    assert len(detector.decode({"y": found}, fit((8, 8), (8, 8), "stretch"), (8, 8))) == 0


def test_a_broken_head_is_refused_as_the_whole_one_is(
    device: Device, detect_kernels: Module
) -> None:
    head = np.zeros((1, 5, 64), np.float32)
    head[0, 4, 5] = np.nan
    detector = Detector((TensorSpec("y", (1, 5, 64), "float32"),), ("a",), TaskConfig())
    (found,) = run(device, detect_kernels, head, 0.5)
    for tensors in ({"y": found}, {"y": head}):
        with pytest.raises(InferenceError, match="NaN"):
            detector.decode(tensors, fit((8, 8), (8, 8), "stretch"), (8, 8))


def test_a_score_that_was_raised_counts(device: Device, detect_kernels: Module) -> None:
    head = np.zeros((1, 5, 64), np.float32)
    head[0, 4, 3], head[0, 4, 40] = 0.6, 0.9
    detector = Detector((TensorSpec("y", (1, 5, 64), "float32"),), ("a",), TaskConfig(score=0.5))
    (found,) = run(device, detect_kernels, head, 0.5)
    assert len(found) == 2
    placed = fit((8, 8), (8, 8), "stretch")
    for tensors in ({"y": found}, {"y": head}):
        raised = detector.tuned(score=0.8).decode(tensors, placed, (8, 8))
        assert list(raised.scores) == [np.float32(0.9)]


@pytest.mark.parametrize(
    ("shape", "dtype", "wanted"),
    [
        ((1, 84, 8400), "float16", True),
        ((1, 84, 8400), "int8", False),
        ((1, 4, 8400), "float32", False),
        ((84, 8400), "float32", False),
    ],
)
def test_kinds_of_heads(shape: tuple[int, ...], dtype: str, wanted: bool) -> None:
    assert readable(TensorSpec("y", shape, dtype)) is wanted


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((1, 84, 8400), ("y", 0.4)),
        ((1, 84, 2100), ("y", 0.4)),
        ((1, 84, 300), None),
        ((1, 300, 6), None),
    ],
)
def test_large_heads_are_worth_it(shape: tuple[int, ...], wanted: tuple[str, float] | None) -> None:
    detector = Detector((TensorSpec("y", shape, "float32"),), (), TaskConfig(score=0.4))
    assert detector.filterable == wanted


def test_what_is_no_head_is_refused(device: Device, detect_kernels: Module) -> None:
    spec = TensorSpec("y", (1, 4, 64), "float32")
    with pytest.raises(ModelError, match="4\\+classes"):
        CandidateFilter(device, detect_kernels, spec, 0, 0.5)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_broken_network_is_seen(device: Device, detect_kernels: Module, poison: float) -> None:
    head = np.zeros((1, 7, 64), np.float32)
    head[0, 6, 33] = poison
    (found,) = run(device, detect_kernels, head, 0.5)
    assert list(found["index"]) == [33]
    assert not np.isfinite(found["score"]).any()


def test_nothing_is_nothing(device: Device, detect_kernels: Module) -> None:
    (found,) = run(device, detect_kernels, np.zeros((1, 5, 64), np.float32), 0.5)
    assert len(found) == 0
    assert found["box"].shape == (0, 4)
