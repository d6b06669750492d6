from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetrt.config import TaskConfig
from edgetrt.errors import ConfigError, InferenceError, ModelError
from edgetrt.geometry import fit
from edgetrt.runtime.tasks.detect import Detector, Limits, nobody, suppress
from edgetrt.types import Detections, TensorSpec

WHOLE = fit((100, 100), (100, 100), "stretch")


def spec(*shape: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec("out", shape, "float32"),)


def run(
    output: NDArray[np.float32], labels: tuple[str, ...], config: TaskConfig | None = None
) -> Detections:
    detector = Detector(spec(1, *output.shape), labels, config or TaskConfig())
    return detector.decode({"out": output[None]}, WHOLE, (100, 100))


def columns(*candidates: tuple[float, ...]) -> NDArray[np.float32]:
    """Candidates as cx cy w h score…, padded with empty ones so that there are more columns than rows."""
    empty = [(0.0,) * len(candidates[0])] * 20
    return np.array([*candidates, *empty], np.float32).T


def overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0.0) * max(height, 0.0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return float(inter / (area - inter))


def test_duplicates_of_a_class_go_and_other_classes_stay() -> None:
    found = run(
        columns(
            (50, 50, 20, 20, 0.9, 0.0),
            (51, 50, 20, 20, 0.8, 0.1),
            (50, 50, 20, 20, 0.0, 0.7),
            (10, 10, 8, 8, 0.3, 0.0),
        ),
        ("person", "dog"),
    )
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.3])
    assert found.classes.tolist() == [0, 1, 0]
    assert found.boxes[0].tolist() == [40, 40, 60, 60]


def test_rows_are_taken_as_they_are() -> None:
    rows = np.array(
        [[1, 2, 3, 4, 0.3, 1], [5, 6, 7, 8, 0.9, 0], [0, 0, 1, 1, 0.1, 0]] * 3, np.float32
    )
    found = run(rows, ())
    assert found.scores.tolist() == pytest.approx([0.9] * 3 + [0.3] * 3)
    assert found.classes.tolist() == [0] * 3 + [1] * 3


def test_only_named_classes_count() -> None:
    output = columns((50, 50, 20, 20, 0.9, 0.0), (20, 20, 9, 9, 0.0, 0.7))
    found = run(output, ("person", "dog"), TaskConfig(only=("dog",)))
    assert found.classes.tolist() == [1]
    with pytest.raises(ConfigError, match="'cat'"):
        run(output, ("person", "dog"), TaskConfig(only=("cat",)))


def test_boxes_come_back_in_frame_pixels() -> None:
    placed = fit((200, 100), (100, 100), "letterbox")
    detector = Detector(spec(1, 5, 21), ("person",), TaskConfig())
    output = columns((50, 50, 20, 20, 0.9))[None]
    found = detector.decode({"out": output}, placed, (200, 100))
    assert found.boxes[0].tolist() == [80, 30, 120, 70]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 4])
def test_numbers_that_are_none_are_refused(bad: float, row: int) -> None:
    output = columns((50, 50, 20, 20, 0.9))
    output[row, 0] = bad
    with pytest.raises(InferenceError, match="NaN"):
        run(output, ("person",))


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("bad", [-np.inf, -np.nan])
def test_so_are_those_below_every_limit(bad: float, classes: int) -> None:
    output = columns((50, 50, 20, 20, *[0.1] * classes))
    output[4:, 0] = bad
    with pytest.raises(InferenceError, match="NaN"):
        run(output, ("person",) * classes)


FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, 0.25, np.inf, -np.inf, np.nan, -np.nan])


@given(scores=st.lists(FLOATS, max_size=40), limit=st.floats(0, 1))
def test_nobody_is_there_when_each_score_is_a_number_below_the_limit(
    scores: list[float], limit: float
) -> None:
    values = np.array(scores, np.float32)
    inside = ~np.signbit(values) & np.isfinite(values) & (values < np.float32(limit))
    assert nobody(values, Limits(limit, 0.5, 10)) == inside.all()


def test_negative_scores_are_looked_at_closely() -> None:
    output = columns((50, 50, 20, 20, -0.5), (50, 50, 20, 20, 0.9))
    assert run(output, ("person",)).scores.tolist() == pytest.approx([0.9])
    assert len(run(output[:, :1].repeat(9, axis=1), ("person",))) == 0


@pytest.mark.parametrize("shape", [(0, 6), (5, 0)])
def test_no_candidates_are_no_objects(shape: tuple[int, int]) -> None:
    declared = tuple(length or 100 for length in shape)
    detector = Detector(spec(1, *declared), (), TaskConfig())
    found = detector.decode({"out": np.zeros((1, *shape), np.float32)}, WHOLE, (100, 100))
    assert len(found) == 0


def test_nothing_found_is_an_empty_answer() -> None:
    found = run(columns((50, 50, 20, 20, 0.1)), ("person",))
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)


def test_at_most_so_many_objects() -> None:
    output = columns(*((10.0 * i, 10, 5, 5, 0.9 - i / 100) for i in range(8)))
    assert len(run(output, ("person",), TaskConfig(max_objects=3))) == 3


@pytest.mark.parametrize("shape", [(1, 100), (1, 3, 4, 4), (2, 84, 8400), (1, 8400, 84)])
def test_other_layouts_are_named_in_the_refusal(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"detection layout.*" + str(shape[-1])):
        Detector(spec(*shape), ("person",) * 80, TaskConfig())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000), count=st.integers(0, 40) | st.just(300), iou=st.floats(0.1, 0.9)
)
def test_suppression_is_greedy_and_complete(seed: int, count: int, iou: float) -> None:
    """Kept boxes do not overlap, and each dropped one overlaps a better kept one of its class."""
    random = np.random.default_rng(seed)
    corner, size = random.uniform(0, 60, (count, 2)), random.uniform(5, 40, (count, 2))
    boxes = np.concatenate((corner, corner + size), axis=1).astype(np.float32)
    classes = random.integers(0, 3, count).astype(np.int32)
    kept = suppress(boxes, classes, iou, most=1000).tolist()

    def clash(i: int, j: int) -> bool:
        return bool(classes[i] == classes[j]) and overlap(boxes[i], boxes[j]) > iou + 1e-5

    assert not any(clash(i, j) for i in kept for j in kept if i < j)
    for lost in set(range(count)) - set(kept):
        assert any(
            classes[better] == classes[lost] and overlap(boxes[better], boxes[lost]) > iou - 1e-5
            for better in kept
            if better < lost
        )
