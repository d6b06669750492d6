"""Which precision is taken, on a tiny detector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgetrt.engine.accuracy import Gate
from edgetrt.engine.variants import Bench, choices
from edgetrt.errors import AccuracyError, ModelError
from edgetrt.model.frames import spool
from edgetrt.model.full import is_half
from edgetrt.model.precision import cast_half
from edgetrt.model.quantize import TENSORRT
from edgetrt.model.storage import read_skeleton
from edgetrt.types import TensorSpec
from tests.model import networks

COUNT = 14
"""Frames: more than the search looks at."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return networks.save(networks.detector(), tmp_path_factory.mktemp("m") / "m.onnx")


@pytest.fixture
def bench(model: Path, tmp_path: Path) -> Bench:
    folder = tmp_path / "frames"
    folder.mkdir()
    spec = TensorSpec("x", (1, 3, 16, 16), "float32")
    return Bench(
        model=model,
        reference=model,
        folder=tmp_path,
        frames=spool(networks.images(COUNT), (spec,), folder),
        gate=Gate("raw", 0.02),
        style=TENSORRT,
        simulate=True,
        search_s=5.0,
        time_ms=times(),
        say=lambda what, at: None,
    )


def times(**ms: float) -> Callable[[Path], float | None]:
    """A clock that knows networks by the beginning of their files' names; 1 ms otherwise."""
    return lambda path: ms.get(path.stem, 1.0)


def test_auto_takes_the_lowest_precision_that_passes_and_is_not_slower(bench: Bench) -> None:
    choice = next(choices("auto", bench))
    assert choice.taken.precision == "int8"
    assert [v.precision for v in choice.tried] == ["int8", "fp32"]
    assert "passes the gate" in choice.reason
    assert choice.taken.changed > 0
    assert choice.taken.everything is not None


def test_a_slower_one_is_passed_over(bench: Bench) -> None:
    choice = next(choices("auto", replace(bench, time_ms=times(int8=3.0, fp16=0.9))))
    assert choice.taken.precision == "fp16"
    assert "int8 is slower here (3.00 against 1.00 ms)" in choice.reason


def test_when_the_engine_fails_the_next_precision_is_offered(bench: Bench) -> None:
    offers = list(choices("auto", bench))
    assert [offer.taken.precision for offer in offers] == ["int8", "fp16", "fp32"]
    assert "the int8 engine lost more than its network" in offers[1].reason


def test_everything_is_refused_by_a_gate_that_allows_nothing(bench: Bench) -> None:
    strict = replace(bench, gate=Gate("raw", 0.0))
    (offer,) = choices("auto", strict)
    assert offer.taken.precision == "fp32"
    assert "int8" in offer.reason
    assert "fp16 loses" in offer.reason
    with pytest.raises(AccuracyError, match=r"in int8: cosine|no layer can be quantized"):
        list(choices("int8", strict))
    with pytest.raises(AccuracyError, match="expected at least 1"):
        list(choices("fp16", strict))


def test_without_frames(bench: Bench) -> None:
    blind = replace(bench, frames=None)
    (offer,) = choices("auto", blind)
    assert offer.taken.precision == "fp32"
    assert "no frames" in offer.reason
    with pytest.raises(ModelError, match="needs frames"):
        list(choices("int8", blind))
    (half,) = choices("fp16", blind)
    assert half.taken.verdict is None


def test_what_is_kept_has_a_reason_and_progress_is_told(bench: Bench) -> None:
    told: list[tuple[str, Any]] = []
    noting = replace(bench, gate=Gate("raw", 0.00001), say=lambda what, at: told.append((what, at)))
    (offer,) = choices("int8", noting)
    assert offer.taken.kept
    assert all(layer.reason for layer in offer.taken.kept)
    assert offer.taken.passed
    fractions = [at for what, at in told if "trial" in what]
    assert len(fractions) == offer.taken.trials > 2
    assert all(0 <= at <= 1 for at in fractions)


def test_no_time_for_the_search_still_gives_a_network_that_passes(bench: Bench) -> None:
    (offer,) = choices("int8", replace(bench, gate=Gate("raw", 0.00001), search_s=0.0))
    assert offer.taken.passed
    assert offer.taken.changed > 0


def test_a_network_that_is_quantized_already_is_left_alone(bench: Bench, tmp_path: Path) -> None:
    (offer,) = choices("int8", bench)
    (again,) = choices("auto", replace(bench, model=offer.taken.path))
    assert again.taken.path == offer.taken.path
    assert "quantized already" in again.reason


@pytest.mark.parametrize("keep_io", [True, False])
def test_a_network_that_was_stored_in_half_is_calibrated_from_single(
    bench: Bench, model: Path, tmp_path: Path, keep_io: bool
) -> None:
    stored, folder = tmp_path / "stored.onnx", tmp_path / "half"
    folder.mkdir()
    cast_half(model, stored, bench.activations, keep_io=keep_io)
    spec = TensorSpec("x", (1, 3, 16, 16), "float32" if keep_io else "float16")
    feeds = [{"x": feed["x"].astype(spec.dtype)} for feed in networks.images(COUNT)]
    half = replace(
        bench, model=stored, reference=stored, frames=spool(feeds, (spec,), folder), folder=folder
    )

    taken = next(choices("int8", half)).taken
    assert taken.changed > 0
    assert taken.passed
    assert not is_half(read_skeleton(half.full))
    assert next(choices("fp16", half)).taken.path == stored
