"""The drawn scene and its truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgetrt.errors import SourceError
from edgetrt.ports import EndOfStream
from edgetrt.sources.synthetic import SyntheticSource, truth_of


def test_the_same_seed_gives_the_same_frames() -> None:
    one, two = (SyntheticSource("320x240", objects=4, seed=7) for _ in range(2))
    other = SyntheticSource("320x240", objects=4, seed=8)
    for n in (0, 1, 250, 100_000):
        picture, truth = one.draw(n)
        again, truth_again = two.draw(n)
        np.testing.assert_array_equal(picture, again)
        np.testing.assert_array_equal(truth.boxes, truth_again.boxes)
    assert np.any(one.draw(0)[0] != other.draw(0)[0])


@settings(max_examples=20, deadline=None)
@example(seed=38, n=440)
@given(st.integers(0, 50), st.integers(0, 100_000))
def test_a_box_holds_exactly_its_figure(seed: int, n: int) -> None:
    """With one figure, what differs from the empty street is the figure."""
    scene = SyntheticSource("320x240", objects=1, seed=seed)
    picture, truth = scene.draw(n)
    empty = SyntheticSource("320x240", objects=0, seed=seed).draw(0)[0]
    rows, columns = np.nonzero((picture != empty).any(axis=2))
    if len(truth) == 0:
        width = columns.max() - columns.min() + 1 if len(columns) else 0
        assert width < 0.5 * 240, "a figure in full view is not in the truth"
        return
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    # A pixel of the figure can have the very colour of the street behind it.
    np.testing.assert_allclose(truth.boxes[0], seen, atol=1)


def test_truth_is_within_the_frame_and_typed() -> None:
    scene = SyntheticSource("320x240", objects=30, seed=1)
    counts = []
    for n in range(0, 3000, 100):
        truth = scene.draw(n)[1]
        assert truth.boxes.dtype == np.float32
        assert truth.classes.dtype == np.int32
        assert np.all(truth.scores == 1)
        assert np.all(truth.boxes[:, :2] >= 0)
        assert np.all(truth.boxes[:, 2:] <= (320, 240))
        assert np.all(truth.boxes[:, 2:] > truth.boxes[:, :2])
        counts.append(len(truth))
    assert 1 <= min(counts) <= max(counts) <= 30
    assert len(set(counts)) > 1, "figures come, go and hide each other"


def test_who_is_hidden_is_not_in_the_truth() -> None:
    far, near = (10, 10, 20, 30), (8, 10, 24, 40)
    assert truth_of([far, near], [200, 480]).boxes.tolist() == [list(near)]
    assert len(truth_of([near, far], [480, 200])) == 2, "who is nearer hides nobody behind"
    assert len(truth_of([(0, 0, 2, 20)], [200])) == 0, "a tenth of a figure is none"
    assert len(truth_of([], [])) == 0


def test_figures_move() -> None:
    scene = SyntheticSource("320x240", objects=3, seed=2)
    assert np.any(scene.draw(0)[0] != scene.draw(10)[0])


def test_frames_carry_their_truth_and_end() -> None:
    scene = SyntheticSource("64x48", objects=2, frames=3)
    frames = [scene.read(1.0) for _ in range(3)]
    assert all(frame is not None and frame.truth is not None for frame in frames)
    with pytest.raises(EndOfStream):
        scene.read(1.0)


@pytest.mark.parametrize(
    ("size", "objects"), [("8x8", 1), ("9000x10", 1), ("64x48", 201), ("wide", 1), ("64x", 1)]
)
def test_what_cannot_be_drawn_is_told(size: str, objects: int) -> None:
    with pytest.raises(SourceError, match="synthetic: expected"):
        SyntheticSource(size, objects=objects)


@pytest.mark.parametrize("size", ["32x32", "33x47", "1920x1080"])
def test_any_size_can_be_drawn(size: str) -> None:
    width, height = map(int, size.split("x"))
    assert SyntheticSource(size, objects=6).draw(3)[0].shape == (height, width, 3)
