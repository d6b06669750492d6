from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgetrt.model.activations import measure
from edgetrt.model.quantize import Quantizer
from edgetrt.model.reference import Reference
from edgetrt.model.sensitivity import refine, search
from edgetrt.model.storage import read_skeleton
from tests.model.networks import detector, images, save


@pytest.fixture
def quantizer(tmp_path: Path) -> Quantizer:
    path = save(detector(), tmp_path / "net.onnx")
    return Quantizer(path, measure(read_skeleton(path), images(4)))


class ScoreBySeparation:
    """1 while the scores and the boxes are right to a few parts in a hundred; counts its calls."""

    def __init__(self, reference: Path) -> None:
        self._frames = images(3, seed=4)
        session = Reference(reference)
        self._expected = [session(feed)["out"] for feed in self._frames]
        self.calls = 0

    def __call__(self, model: Path) -> float:
        self.calls += 1
        session = Reference(model, simulate=True)
        errors = []
        for feed, expected in zip(self._frames, self._expected, strict=True):
            error = np.abs(session(feed)["out"] - expected)
            errors.append(max(error[:, :4].mean() / 500, error[:, 4].mean()))
        return 1.0 - float(np.mean(errors))


def quantized_nodes(path: Path) -> set[str]:
    model = onnx.load(path)
    from_pair = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    return {n.name for n in model.graph.node if n.input and n.input[0] in from_pair}


def test_the_decode_is_discovered(quantizer: Quantizer, tmp_path: Path) -> None:
    score = ScoreBySeparation(quantizer.path)
    mixture = search(quantizer, score, tmp_path / "mixed.onnx", limit=0.02)
    assert mixture.holds
    assert mixture.score_all < 0.9
    kept = {layer.node: layer for layer in mixture.kept}
    assert "join" in kept
    assert "round to nothing" in kept["join"].reason
    assert "up to" in kept["join"].reason
    assert not {"conv1", "conv2"} & kept.keys()
    assert {"conv1", "conv2"} <= quantized_nodes(tmp_path / "mixed.onnx")
    assert mixture.trials == score.calls
    assert mixture.quantized + len(kept) == len(quantizer.candidates())
    assert score(tmp_path / "mixed.onnx") == pytest.approx(mixture.score)


def test_a_loose_limit_quantizes_everything(quantizer: Quantizer, tmp_path: Path) -> None:
    score = ScoreBySeparation(quantizer.path)
    mixture = search(quantizer, score, tmp_path / "mixed.onnx", limit=1.0)
    assert mixture.kept == ()
    assert mixture.trials == 2
    assert mixture.score == mixture.score_all


def test_an_impossible_limit_ends_and_says_so(quantizer: Quantizer, tmp_path: Path) -> None:
    mixture = search(
        quantizer, ScoreBySeparation(quantizer.path), tmp_path / "mixed.onnx", limit=0.0
    )
    # With nothing quantized the loss is exactly zero: the search may end there, never beyond.
    assert mixture.holds
    assert mixture.score == mixture.score_float


def test_trials_are_bounded_and_unresolved_groups_stay_float(
    quantizer: Quantizer, tmp_path: Path
) -> None:
    score = ScoreBySeparation(quantizer.path)
    mixture = search(quantizer, score, tmp_path / "mixed.onnx", limit=0.005, max_trials=3)
    assert score.calls <= 6
    assert mixture.holds
    assert any("not resolved" in layer.reason or layer.group > 1 for layer in mixture.kept)


class Sum:
    """A score that knows which layers hurt and how much; their losses add up."""

    def __init__(self, losses: dict[str, float], names: list[str]) -> None:
        self._losses, self._names = losses, names

    def __call__(self, model: Path) -> float:
        return 1.0 - sum(self._losses.get(name, 0.0) for name in quantized_nodes(model))


def test_small_losses_that_add_up_are_reduced_to_the_limit(
    quantizer: Quantizer, tmp_path: Path
) -> None:
    names = ["conv1", "conv2", "box_head", "score_head"]
    score = Sum(dict.fromkeys(names, 0.002), names)
    mixture = search(quantizer, score, tmp_path / "mixed.onnx", limit=0.005)
    assert mixture.holds
    assert 1.0 - mixture.score <= 0.005
    assert mixture.quantized > 0
    assert all(layer.reason for layer in mixture.kept)


def test_a_finer_score_takes_out_more_and_no_more_than_it_must(
    quantizer: Quantizer, tmp_path: Path
) -> None:
    names = [node.name for node in quantizer.candidates()]
    out = tmp_path / "mixed.onnx"
    rough = search(quantizer, Sum({}, names), out, limit=0.005)
    assert rough.kept == ()
    finer = Sum({"conv2": 0.02, "score_head": 0.002}, names)
    mixture = refine(quantizer, finer, out, 0.005, rough)
    assert mixture.holds
    assert "conv2" in {layer.node for layer in mixture.kept}
    assert len(mixture.kept) <= 2  # and one that shares its input
    assert quantized_nodes(out) >= {"conv1", "score_head"}
    assert mixture.trials > rough.trials


def test_refining_ends_with_the_trials_and_holds(quantizer: Quantizer, tmp_path: Path) -> None:
    names = [node.name for node in quantizer.candidates()]
    out = tmp_path / "mixed.onnx"
    rough = search(quantizer, Sum({}, names), out, limit=0.005)
    finer = Sum({"conv2": 0.02}, names)
    assert refine(quantizer, finer, out, 0.005, rough, over=lambda: True).holds
