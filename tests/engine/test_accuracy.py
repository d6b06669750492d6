from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetrt.engine.accuracy import Gate, Outputs, Scorer
from edgetrt.engine.measures import (
    average_precision,
    cosine,
    iou_matrix,
    max_error,
    mean_iou,
    top1_agreement,
)
from edgetrt.errors import AccuracyError, ModelError
from edgetrt.types import Detections
from tests.model.networks import detector, images, save


def frame(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows of x1 y1 x2 y2 score class."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int32))


A, B, C = (0, 0, 10, 10), (20, 20, 40, 30), (50, 50, 60, 60)


def test_iou_by_hand() -> None:
    a = np.array([[0, 0, 10, 10], [0, 0, 0, 0]])
    b = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [20, 20, 30, 30]])
    np.testing.assert_allclose(iou_matrix(a, b), [[50 / 150, 1, 0], [0, 0, 0]])
    assert iou_matrix(np.zeros((0, 4)), b).shape == (0, 3)


def test_everything_found_is_one() -> None:
    truth = [frame((*A, 1, 0), (*B, 1, 0)), frame((*C, 1, 0))]
    found = [frame((*A, 0.9, 0), (*B, 0.3, 0)), frame((*C, 0.5, 0))]
    result = average_precision(found, truth)
    assert (result.ap, result.recall, result.truths) == (1.0, 1.0, 3)


def test_a_false_box_before_the_true_one_halves_precision() -> None:
    result = average_precision([frame((*B, 0.9, 0), (*A, 0.8, 0))], [frame((*A, 1, 0))])
    assert result.ap == pytest.approx(0.5)
    assert result.recall == 1.0


def test_interpolation_by_hand() -> None:
    # true, false, true of 2 truths: precision 1 up to recall 0.5 (51 points), 2/3 after (50 points)
    found = [frame((*A, 0.9, 0), (*C, 0.8, 0), (*B, 0.7, 0))]
    result = average_precision(found, [frame((*A, 1, 0), (*B, 1, 0))])
    assert result.ap == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_second_box_on_the_same_truth_is_false() -> None:
    found = [frame((*A, 0.9, 0), (*A, 0.8, 0), (*B, 0.7, 0))]
    result = average_precision(found, [frame((*A, 1, 0), (*B, 1, 0))])
    assert result.ap == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_classes_do_not_mix() -> None:
    result = average_precision(
        [frame((*A, 0.9, 1), (*B, 0.9, 0))], [frame((*A, 1, 0), (*B, 1, 0), (*C, 1, 2))]
    )
    assert result.by_class == {0: pytest.approx(51 / 101), 2: 0.0}
    assert result.ap == pytest.approx(51 / 202)


def test_ignored_boxes_are_neither_right_nor_wrong() -> None:
    found = [frame((*C, 0.9, 0), (*A, 0.8, 0))]
    truth = [frame((*A, 1, 0))]
    assert average_precision(found, truth).ap == pytest.approx(0.5)
    assert average_precision(found, truth, ignored=[np.array([C])]).ap == 1.0


def test_no_truth_has_no_precision() -> None:
    assert np.isnan(average_precision([frame((*A, 1, 0))], [frame()]).ap)
    assert average_precision([frame()], [frame((*A, 1, 0))]).ap == 0.0


boxes = st.lists(
    st.tuples(
        st.integers(0, 80),
        st.integers(0, 80),
        st.integers(1, 20),
        st.integers(1, 20),
        st.floats(0.0625, 1, width=32),
        st.integers(0, 2),
    ),
    max_size=6,
)


@given(st.lists(boxes, min_size=1, max_size=4))
def test_a_network_agrees_with_itself(frames: list[list[tuple[int, ...]]]) -> None:
    truth = [frame(*((x, y, x + w, y + h, s, c) for x, y, w, h, s, c in rows)) for rows in frames]
    result = average_precision(truth, truth, iou=0.99)
    assert result.truths == 0 or result.ap == pytest.approx(1.0)


@given(boxes, boxes)
def test_precision_stays_between_zero_and_one(
    found: list[tuple[int, ...]], truth: list[tuple[int, ...]]
) -> None:
    a, b = (
        frame(*((x, y, x + w, y + h, s, c) for x, y, w, h, s, c in rows)) for rows in (found, truth)
    )
    result = average_precision([a], [b])
    assert result.truths == len(truth)
    if truth:
        assert 0 <= result.ap <= 1
        assert 0 <= result.recall <= 1


def test_other_measures_by_hand() -> None:
    assert top1_agreement([np.array([[1, 2]]), np.array([[3, 0]])], [np.array([[0, 9]])] * 2) == 0.5
    value, by_class = mean_iou([np.array([0, 0, 1, 1])], [np.array([0, 1, 1, 1])])
    assert by_class == {0: 0.5, 1: pytest.approx(2 / 3)}
    assert value == pytest.approx((0.5 + 2 / 3) / 2)
    assert cosine(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(np.sqrt(0.5))
    assert cosine(np.zeros(2), np.zeros(2)) == 1.0
    assert cosine(np.zeros(2), np.ones(2)) == 0.0
    assert max_error(np.array([1.0, 5.0]), np.array([2.0, 2.0])) == 3.0
    assert max_error(np.zeros(0), np.zeros(0)) == 0.0


def decode(outputs: Outputs) -> Detections:
    return frame(*(tuple(row) for row in outputs["boxes"]))


def answer(*rows: tuple[float, ...]) -> Outputs:
    return {"boxes": np.array(rows, np.float32).reshape(-1, 6)}


def test_a_detector_passes_and_fails_by_its_boxes() -> None:
    gate = Gate("detect", 0.1, decode, labels=["person", "car"])
    reference = [answer((*A, 0.9, 0), (*B, 0.6, 0), (*C, 0.1, 1))]
    same = gate.judge(reference, reference)
    assert same.passed
    assert (same.measure, same.value, same.loss) == ("ap", 1.0, 0.0)
    assert same.per_class == {"person": 1.0}  # the weak one is no object
    assert same.detail == {"recall": 1.0, "objects": 2.0}
    lost = gate.judge(reference, [answer((*A, 0.9, 0))])
    assert not lost.passed
    assert lost.value == pytest.approx(51 / 101)
    same.require("engine")
    with pytest.raises(AccuracyError, match=r"engine: ap 0\.5050 .* at least 0\.9000"):
        lost.require("engine")


def test_frames_without_objects_cannot_judge() -> None:
    gate = Gate("detect", 0.1, decode)
    with pytest.raises(ModelError, match="finds nothing"):
        gate.judge([answer((*A, 0.1, 0))], [answer((*A, 0.1, 0))])


def test_not_finite_never_passes() -> None:
    verdict = Gate("raw", 1.0).judge([{"y": np.ones(3)}], [{"y": np.array([1, np.nan, 1])}])
    assert not verdict.passed
    assert verdict.detail == {"finite": 0.0}


def test_raw_takes_the_worst_output() -> None:
    reference = [{"a": np.array([1.0, 0.0]), "b": np.ones(2)}]
    verdict = Gate("raw", 0.01).judge(reference, [{"a": np.array([1.0, 1.0]), "b": np.ones(2)}])
    assert verdict.value == pytest.approx(np.sqrt(0.5))
    assert verdict.per_class["b"] == pytest.approx(1.0)
    assert verdict.detail["max_error"] == 1.0
    assert not verdict.passed


def test_classes_and_label_maps() -> None:
    scores = [{"y": np.array([[0.1, 0.9]])}, {"y": np.array([[0.8, 0.2]])}]
    flipped = [scores[0], {"y": np.array([[0.2, 0.8]])}]
    assert Gate("classify", 0.5).judge(scores, flipped).value == 0.5
    maps = [{"y": np.array([[[[0.9, 0.1]], [[0.1, 0.9]]]])}]  # 1×2×1×2: labels 0 1
    assert Gate("segment").judge(maps, maps).value == 1.0
    assert Gate("segment").judge(maps, [{"y": np.array([[[0, 0]]])}]).value == pytest.approx(0.25)


def test_other_outputs_and_other_counts_are_refused() -> None:
    gate = Gate("raw")
    with pytest.raises(ModelError, match="outputs"):
        gate.judge([{"a": np.ones(1)}], [{"b": np.ones(1)}])
    with pytest.raises(ModelError, match="0 frames"):
        gate.judge([{"a": np.ones(1)}], [])


def test_a_detector_needs_a_decode() -> None:
    with pytest.raises(ModelError, match="decode"):
        Gate("detect").judge([answer((*A, 1, 0))], [answer((*A, 1, 0))])


def test_a_scorer_runs_the_files(tmp_path: Path) -> None:
    one = save(detector(), tmp_path / "one.onnx")
    other = save(detector(seed=5), tmp_path / "other.onnx")
    score = Scorer(Gate("raw"), one, images(2))
    assert score(one) == pytest.approx(1.0)
    assert score(other) < 0.999
    assert score.verdict(other).detail["max_error"] > 1.0
