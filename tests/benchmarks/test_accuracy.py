from __future__ import annotations

from pathlib import Path

import pytest

from scripts.benchmarks.accuracy import MODEL, STATED, TOLERANCE, measure
from scripts.benchmarks.footage import cache

ROOT = Path(__file__).parents[2]
LABELS = ROOT.parent / "shared" / "models" / "person" / "gt" / "PETS09-S2L1.txt"
VIDEO = cache() / "vtest.avi"


@pytest.mark.slow
@pytest.mark.skipif(not LABELS.exists(), reason="the labels may not be part of this repository")
@pytest.mark.skipif(
    not VIDEO.exists(), reason="the street video was not fetched; ./scripts/demo does"
)
def test_the_pipeline_finds_people_as_well_as_the_model_does() -> None:
    assert measure(MODEL, VIDEO, LABELS, 601, "onnxruntime") >= STATED - TOLERANCE
