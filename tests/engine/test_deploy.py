"""The flow, on a machine that is made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgetrt.config import RecipeConfig
from edgetrt.engine import memo
from edgetrt.engine.cache import Cache
from edgetrt.engine.deploy import deploy, name_engine
from edgetrt.engine.placing import BuildOrder
from edgetrt.engine.recipe import Recipe
from edgetrt.engine.report import NETWORK
from edgetrt.errors import AccuracyError, EngineBuildError, PlacementError
from tests.engine.toolsets import FakeToolset
from tests.model import networks


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return networks.save(networks.detector(), tmp_path / "m.onnx")


def order(model: Path, target: str | None = None, **settings: Any) -> BuildOrder:
    recipe = Recipe(model, model, RecipeConfig(model=str(model), **settings))
    return BuildOrder("net", recipe, target, search_s=1.0)


def quiet(step: str, what: str = "", fraction: float | None = None) -> None:
    assert fraction is None or 0 <= fraction <= 1


def test_every_step_is_done_told_and_kept(cache: Cache, model: Path) -> None:
    steps: list[str] = []

    def say(step: str, what: str = "", fraction: float | None = None) -> None:
        steps.append(step)

    report = deploy(order(model), FakeToolset(), cache, say)
    known = ["place", "frames", "precision", "build", "verify", "bench"]
    assert list(dict.fromkeys(steps)) == known
    assert list(report.steps_s) == known
    assert report.cache == "miss"
    assert "the builder said so" in report.warnings
    assert report.waterfall_ms == {"read": 1.0}
    engine = cache.open(report.engine)
    assert set(engine.manifest.files) == {"engine.plan.onnx", NETWORK}
    assert engine.manifest.info["precision"] == report.precision
    again = deploy(replace(order(model), name="other"), FakeToolset(), cache, quiet)
    assert (again.cache, again.name, again.engine) == ("hit", "other", report.engine)


def test_auto_steps_down_when_the_engine_is_worse_than_its_network(
    cache: Cache, model: Path
) -> None:
    tools = FakeToolset(spoils=("int8",))
    report = deploy(order(model), tools, cache, quiet)
    assert [spec.precision for spec in tools.built] == ["int8", "fp16"]
    assert report.precision == "fp16"
    assert any("int8 was refused" in warning for warning in report.warnings)


def test_an_engine_that_fails_is_refused_and_nothing_is_kept(cache: Cache, model: Path) -> None:
    with pytest.raises(AccuracyError, match="net on fake"):
        deploy(order(model, precision="int8"), FakeToolset(spoils=("int8",)), cache, quiet)
    with pytest.raises(AccuracyError, match="net on fake"):
        deploy(order(model), FakeToolset(spoils=("int8", "fp16", "fp32")), cache, quiet)
    assert cache.ls() == []
    assert list(cache.root.glob(".tmp-*")) == []


def test_auto_steps_down_when_a_precision_cannot_be_built(cache: Cache, model: Path) -> None:
    report = deploy(order(model), FakeToolset(breaks=("int8",)), cache, quiet)
    assert report.precision == "fp16"
    assert any("int8 was given up: the builder crashed" in w for w in report.warnings)
    with pytest.raises(EngineBuildError, match="crashed"):
        deploy(order(model, precision="int8"), FakeToolset(breaks=("int8",)), cache, quiet)
    with pytest.raises(EngineBuildError, match="crashed"):
        deploy(order(model), FakeToolset(5, breaks=("int8", "fp16", "fp32")), cache, quiet)


def test_an_engine_that_cannot_run_here_says_so(cache: Cache, model: Path) -> None:
    report = deploy(order(model, precision="fp16"), FakeToolset(runs=False), cache, quiet)
    assert report.latency_ms is None
    assert report.accuracy is not None
    assert any("built and not run" in warning for warning in report.warnings)


def test_without_frames_it_is_fp32_and_advised(cache: Cache, model: Path) -> None:
    report = deploy(order(model), FakeToolset(frames=0), cache, quiet)
    assert (report.precision, report.accuracy) == ("fp32", None)
    assert any("--calib" in advice for advice in report.advice)


def test_on_the_dla_it_is_fp16_without_frames_and_never_fp32(cache: Cache, model: Path) -> None:
    asked = order(model, "orin-nx-16gb", dla=1, dla_coverage=0.0)
    tools = FakeToolset(frames=0)
    report = deploy(asked, tools, cache, quiet)
    assert (report.precision, tools.built[0].dla) == ("fp16", 1)
    assert report.placement is not None
    assert report.placement.compared is not None
    assert report.placement.compared.differing == ["a: DLA, built GPU"]
    with pytest.raises(PlacementError, match="neither will do"):
        deploy(asked, FakeToolset(spoils=("int8", "fp16")), cache, quiet)


def test_a_placement_for_another_board_builds_without_its_dla(cache: Cache, model: Path) -> None:
    asked = replace(order(model, "orin-nx-16gb", dla=0, dla_coverage=0.0), here=False)
    tools = FakeToolset()
    report = deploy(asked, tools, cache, quiet)
    assert tools.built[0].dla is None
    assert not tools.built[0].strict
    assert report.placement is not None
    assert (report.placement.here, report.placement.compared) == (False, None)
    assert any("engine made here is for this machine" in warning for warning in report.warnings)


def test_open_dimensions_are_built_for_one_size(cache: Cache, tmp_path: Path) -> None:
    made = networks.detector()
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(made, tmp_path / "open.onnx")
    tools = FakeToolset(frames=0)
    asked = replace(order(tmp_path / "open.onnx"), inputs={"x": (1, 3, 16, 16)})
    deploy(asked, tools, cache, quiet)
    (profile,) = tools.built[0].profiles
    assert profile["x"].fixed
    assert profile["x"].opt == (1, 3, 16, 16)


def test_a_small_disk_is_told_before_anything_is_done(cache: Cache, model: Path) -> None:
    tools = FakeToolset()
    with pytest.raises(EngineBuildError, match=r"about [0-9]+ KiB needed, 1 KiB free") as caught:
        deploy(order(model), tools, cache, quiet, free_bytes=lambda path: 1000)
    assert "engines gc" in caught.value.hint
    assert tools.built == []


@pytest.mark.parametrize(
    "other",
    [
        {"precision": "fp16"},
        {"strict": True, "dla": 0},
        {"dla_coverage": 0.9},
    ],
)
def test_another_order_is_another_engine(model: Path, other: dict[str, Any]) -> None:
    first = name_engine(order(model), FakeToolset()).digest
    assert name_engine(order(model), FakeToolset()).digest == first
    assert name_engine(order(model, **other), FakeToolset()).digest != first
    assert name_engine(order(model), FakeToolset(frames=5)).digest != first
    assert name_engine(order(model, "orin-nx-16gb", dla=0), FakeToolset()).digest != first


def test_one_plan_runs_on_either_core(model: Path) -> None:
    names = [
        name_engine(order(model, "orin-nx-16gb", dla=core), FakeToolset()).digest for core in (0, 1)
    ]
    assert names[0] == names[1]


def test_an_order_s_words_lead_back_to_its_engine(cache: Cache, model: Path) -> None:
    report = deploy(order(model, precision="fp16"), FakeToolset(), cache, quiet)
    words = memo.words_of(model, ["fp16"])
    assert memo.recall(cache, words, model) == (None, "")
    beside = model.with_name("weights.bin")
    beside.write_bytes(b"1")
    memo.remember(cache, words, report.engine, [beside])
    # No package says that TensorRT 10.3.0 is here, so the engine may be out of date.
    assert memo.recall(cache, words, model) == (None, "")
    assert memo.find(cache, report.engine)[0] == report
    assert memo.words_of(model, ["fp32"]) != words


def test_notes_that_are_damaged_or_out_of_date_are_no_notes(cache: Cache, model: Path) -> None:
    words = memo.words_of(model, [])
    beside = model.with_name("weights.bin")
    beside.write_bytes(b"1")
    memo.remember(cache, words, "a" * 64, [beside])
    assert memo.recall(cache, words, model) == (None, "")
    beside.write_bytes(b"2")
    assert memo.recall(cache, words, model) == (None, "")
    (cache.root / ".orders" / words).write_bytes(b"{")
    assert memo.recall(cache, words, model) == (None, "")
    model.write_bytes(model.read_bytes() + b"\0")
    assert memo.words_of(model, []) != words


def test_a_spoilt_engine_is_named_and_moved_aside(cache: Cache, model: Path) -> None:
    report = deploy(order(model, precision="fp16"), FakeToolset(), cache, quiet)
    (cache.root / report.engine / NETWORK).write_bytes(b"evil")
    found, wrong = memo.find(cache, report.engine)
    assert found is None
    assert "does not verify" in wrong
    assert memo.find(cache, report.engine) == (None, "")
    assert (
        deploy(order(model, precision="fp16"), FakeToolset(), cache, quiet, wrong).warnings[0]
        == wrong
    )
