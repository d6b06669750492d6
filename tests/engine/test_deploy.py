"""The flow, on a machine that is made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgetrt.config import RecipeConfig
from edgetrt.engine import orders
from edgetrt.engine.cache import Cache
from edgetrt.engine.deploy import deploy, name_engine
from edgetrt.engine.fitting import Order
from edgetrt.engine.recipe import Recipe
from edgetrt.engine.report import NETWORK
from edgetrt.errors import AccuracyError, EngineBuildError, PlacementError
from tests.engine.shops import FakeShop
from tests.model import networks


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return networks.save(networks.detector(), tmp_path / "m.onnx")


def order(model: Path, target: str | None = None, **settings: Any) -> Order:
    recipe = Recipe(model, model, RecipeConfig(model=str(model), **settings))
    return Order("net", recipe, target, search_s=1.0)


def quiet(step: str, what: str = "", fraction: float | None = None) -> None:
    assert fraction is None or 0 <= fraction <= 1


def test_every_step_is_done_told_and_kept(cache: Cache, model: Path) -> None:
    steps: list[str] = []

    def say(step: str, what: str = "", fraction: float | None = None) -> None:
        steps.append(step)

    report = deploy(order(model), FakeShop(), cache, say)
    known = ["place", "frames", "precision", "build", "verify", "bench"]
    assert list(dict.fromkeys(steps)) == known
    assert list(report.steps_s) == known
    assert report.cache == "miss"
    assert "the builder said so" in report.warnings
    assert report.waterfall_ms == {"read": 1.0}
    engine = cache.open(report.engine)
    assert set(engine.manifest.files) == {"engine.plan.onnx", NETWORK}
    assert engine.manifest.info["precision"] == report.precision
    again = deploy(replace(order(model), name="other"), FakeShop(), cache, quiet)
    assert (again.cache, again.name, again.engine) == ("hit", "other", report.engine)


def test_auto_steps_down_when_the_engine_is_worse_than_its_network(
    cache: Cache, model: Path
) -> None:
    shop = FakeShop(spoils=("int8",))
    report = deploy(order(model), shop, cache, quiet)
    assert [spec.precision for spec in shop.built] == ["int8", "fp16"]
    assert report.precision == "fp16"
    assert any("int8 was refused" in warning for warning in report.warnings)


def test_an_engine_that_fails_is_refused_and_nothing_is_kept(cache: Cache, model: Path) -> None:
    with pytest.raises(AccuracyError, match="net on fake"):
        deploy(order(model, precision="int8"), FakeShop(spoils=("int8",)), cache, quiet)
    with pytest.raises(AccuracyError, match="net on fake"):
        deploy(order(model), FakeShop(spoils=("int8", "fp16", "fp32")), cache, quiet)
    assert cache.ls() == []
    assert list(cache.root.glob(".tmp-*")) == []


def test_auto_steps_down_when_a_precision_cannot_be_built(cache: Cache, model: Path) -> None:
    report = deploy(order(model), FakeShop(breaks=("int8",)), cache, quiet)
    assert report.precision == "fp16"
    assert any("int8 was given up: the builder crashed" in w for w in report.warnings)
    with pytest.raises(EngineBuildError, match="crashed"):
        deploy(order(model, precision="int8"), FakeShop(breaks=("int8",)), cache, quiet)
    with pytest.raises(EngineBuildError, match="crashed"):
        deploy(order(model), FakeShop(5, breaks=("int8", "fp16", "fp32")), cache, quiet)


def test_an_engine_that_cannot_run_here_says_so(cache: Cache, model: Path) -> None:
    report = deploy(order(model, precision="fp16"), FakeShop(runs=False), cache, quiet)
    assert report.latency_ms is None
    assert report.accuracy is not None
    assert any("built and not run" in warning for warning in report.warnings)


def test_without_frames_it_is_fp32_and_advised(cache: Cache, model: Path) -> None:
    report = deploy(order(model), FakeShop(frames=0), cache, quiet)
    assert (report.precision, report.accuracy) == ("fp32", None)
    assert any("--calib" in advice for advice in report.advice)


def test_on_the_dla_it_is_fp16_without_frames_and_never_fp32(cache: Cache, model: Path) -> None:
    asked = order(model, "orin-nx-16gb", dla=1, dla_coverage=0.0)
    shop = FakeShop(frames=0)
    report = deploy(asked, shop, cache, quiet)
    assert (report.precision, shop.built[0].dla) == ("fp16", 1)
    assert report.placement is not None
    assert report.placement.compared is not None
    assert report.placement.compared.differing == ["a: DLA, built GPU"]
    with pytest.raises(PlacementError, match="neither will do"):
        deploy(asked, FakeShop(spoils=("int8", "fp16")), cache, quiet)


def test_a_placement_for_another_board_builds_without_its_dla(cache: Cache, model: Path) -> None:
    asked = replace(order(model, "orin-nx-16gb", dla=0, dla_coverage=0.0), here=False)
    shop = FakeShop()
    report = deploy(asked, shop, cache, quiet)
    assert shop.built[0].dla is None
    assert not shop.built[0].strict
    assert report.placement is not None
    assert (report.placement.here, report.placement.compared) == (False, None)
    assert any("engine made here is for this machine" in warning for warning in report.warnings)


def test_open_dimensions_are_built_for_one_size(cache: Cache, tmp_path: Path) -> None:
    made = networks.detector()
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(made, tmp_path / "open.onnx")
    shop = FakeShop(frames=0)
    asked = replace(order(tmp_path / "open.onnx"), inputs={"x": (1, 3, 16, 16)})
    deploy(asked, shop, cache, quiet)
    (profile,) = shop.built[0].profiles
    assert profile["x"].fixed
    assert profile["x"].opt == (1, 3, 16, 16)


def test_a_small_disk_is_told_before_anything_is_done(cache: Cache, model: Path) -> None:
    shop = FakeShop()
    with pytest.raises(EngineBuildError, match=r"needed, 0 MiB free") as caught:
        deploy(order(model), shop, cache, quiet, free_bytes=lambda path: 1000)
    assert "engines gc" in caught.value.hint
    assert shop.built == []


@pytest.mark.parametrize(
    "other",
    [
        {"precision": "fp16"},
        {"strict": True, "dla": 0},
        {"dla_coverage": 0.9},
    ],
)
def test_another_order_is_another_engine(model: Path, other: dict[str, Any]) -> None:
    first = name_engine(order(model), FakeShop()).digest
    assert name_engine(order(model), FakeShop()).digest == first
    assert name_engine(order(model, **other), FakeShop()).digest != first
    assert name_engine(order(model), FakeShop(frames=5)).digest != first
    assert name_engine(order(model, "orin-nx-16gb", dla=0), FakeShop()).digest != first


def test_one_plan_runs_on_either_core(model: Path) -> None:
    names = [
        name_engine(order(model, "orin-nx-16gb", dla=core), FakeShop()).digest for core in (0, 1)
    ]
    assert names[0] == names[1]


def test_an_order_s_words_lead_back_to_its_engine(cache: Cache, model: Path) -> None:
    report = deploy(order(model, precision="fp16"), FakeShop(), cache, quiet)
    words = orders.words_of(model, ["fp16"])
    assert orders.recall(cache, words, model) == (None, "")
    beside = model.with_name("weights.bin")
    beside.write_bytes(b"1")
    orders.remember(cache, words, report.engine, [beside])
    # No package says that TensorRT 10.3.0 is here, so the engine may be out of date.
    assert orders.recall(cache, words, model) == (None, "")
    assert orders.find(cache, report.engine)[0] == report
    assert orders.words_of(model, ["fp32"]) != words


def test_notes_that_are_damaged_or_out_of_date_are_no_notes(cache: Cache, model: Path) -> None:
    words = orders.words_of(model, [])
    beside = model.with_name("weights.bin")
    beside.write_bytes(b"1")
    orders.remember(cache, words, "a" * 64, [beside])
    assert orders.recall(cache, words, model) == (None, "")
    beside.write_bytes(b"2")
    assert orders.recall(cache, words, model) == (None, "")
    (cache.root / ".orders" / words).write_bytes(b"{")
    assert orders.recall(cache, words, model) == (None, "")
    model.write_bytes(model.read_bytes() + b"\0")
    assert orders.words_of(model, []) != words


def test_a_spoilt_engine_is_named_and_moved_aside(cache: Cache, model: Path) -> None:
    report = deploy(order(model, precision="fp16"), FakeShop(), cache, quiet)
    (cache.root / report.engine / NETWORK).write_bytes(b"evil")
    found, wrong = orders.find(cache, report.engine)
    assert found is None
    assert "does not verify" in wrong
    assert orders.find(cache, report.engine) == (None, "")
    assert (
        deploy(order(model, precision="fp16"), FakeShop(), cache, quiet, wrong).warnings[0] == wrong
    )
