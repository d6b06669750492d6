from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgetrt.backends.onnxruntime import OnnxRuntimeBackend
from edgetrt.config import TaskConfig
from edgetrt.engine import recipe
from edgetrt.errors import InferenceError, ModelError
from edgetrt.geometry import fit
from edgetrt.runtime.reading import Reading
from edgetrt.runtime.tasks.heads import HeadDetector
from edgetrt.sources.synthetic import SyntheticSource
from edgetrt.types import Detections, TensorSpec

PERSON = Path(__file__).parents[3] / "engines" / "person"
HEAD = json.dumps({"decode": "d = (2*sigmoid(box))**2 * 4 * stride"})
SPECS = (
    TensorSpec("box_s8", (1, 4, 3, 4), "float32"),
    TensorSpec("cls_s8", (1, 2, 3, 4), "float32"),
)
WHOLE = fit((32, 24), (32, 24), "stretch")


def tensors(logit: float = 3.0) -> dict[str, np.ndarray]:
    cls = np.full((1, 2, 3, 4), -20.0, np.float32)
    cls[0, 1, 2, 1] = logit
    return {"box_s8": np.full((1, 4, 3, 4), -2.0, np.float32), "cls_s8": cls}


def test_a_cell_becomes_its_box_by_the_formula() -> None:
    detector = HeadDetector(HEAD, SPECS, ("cat", "dog"), TaskConfig())
    found = detector.decode(tensors(), WHOLE, (32, 24))
    side = (2 / (1 + np.exp(2.0))) ** 2 * 4 * 8
    centre = np.array([1.5, 2.5]) * 8
    expected = [*(centre - side).clip(0), *np.minimum(centre + side, (32, 24))]
    assert found.boxes[0].tolist() == pytest.approx(expected, abs=1e-3)
    assert found.scores[0] == pytest.approx(1 / (1 + np.exp(-3.0)), abs=1e-5)
    assert found.classes.tolist() == [1]


def test_only_named_classes_and_scores_count() -> None:
    labels = ("cat", "dog")
    none = HeadDetector(HEAD, SPECS, labels, TaskConfig(only=("cat",)))
    assert len(none.decode(tensors(), WHOLE, (32, 24))) == 0
    strict = HeadDetector(HEAD, SPECS, labels, TaskConfig(score=0.99))
    assert len(strict.decode(tensors(), WHOLE, (32, 24))) == 0


@pytest.mark.parametrize("name", ["box_s8", "cls_s8"])
def test_numbers_that_are_none_are_refused(name: str) -> None:
    bad = tensors()
    bad[name][0, :, 2, 1] = np.nan
    with pytest.raises(InferenceError, match="NaN"):
        HeadDetector(HEAD, SPECS, ("cat", "dog"), TaskConfig()).decode(bad, WHOLE, (32, 24))


@pytest.mark.parametrize("metadata", ["", "{}", "[]", json.dumps({"decode": "d = exp(box)"})])
def test_other_formulas_are_refused(metadata: str) -> None:
    with pytest.raises(ModelError, match="no decode that edgetrt knows"):
        HeadDetector(metadata, SPECS, (), TaskConfig())


@pytest.mark.parametrize(
    "specs", [(), SPECS[:1], (SPECS[0], TensorSpec("cls_s8", (1, 2, 9, 9), "f"))]
)
def test_other_tensors_are_refused(specs: tuple[TensorSpec, ...]) -> None:
    with pytest.raises(ModelError, match="box_s"):
        HeadDetector(HEAD, specs, (), TaskConfig())


def test_the_person_network_finds_the_same_with_and_without_its_decode() -> None:
    frame = SyntheticSource("768x576", objects=6, seed=2).read(1.0)
    assert frame is not None
    answers: list[Detections] = []
    for name in ("person.onnx", "person_raw_head.onnx"):
        reading = Reading.of(recipe.read(PERSON / name))
        session = OnnxRuntimeBackend().load(PERSON / name, 1, reading.shapes)
        network = reading.network(session, "x", "onnxruntime", depth=1)
        lane = network.lanes[0]
        placed = lane.preprocessor.write(frame)
        answer = reading.task(score=0.1).decode(lane.session.infer(), placed, frame.size)
        assert isinstance(answer, Detections)
        answers.append(answer)
        network.close()
    decoded, raw = answers
    assert len(decoded) == len(raw) > 0
    assert np.allclose(decoded.boxes, raw.boxes, atol=0.05)
    assert np.allclose(decoded.scores, raw.scores, atol=1e-4)
