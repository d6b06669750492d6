from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetrt.config import RecipeConfig
from edgetrt.engine.placing import BuildOrder, place
from edgetrt.engine.recipe import Recipe
from edgetrt.errors import PlacementError


def half_and_half(path: Path) -> Path:
    """A convolution, which the DLA runs, and a matrix product with another tensor, which it does not."""
    weights = {"w": np.ones((8, 8, 3, 3), np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("MatMul", ["c", "c"], ["y"], "matmul"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8, 16, 16]) for n in "xy"]
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "half", [ends[0]], [ends[1]], initializers)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def order(model: Path, target: str | None = "orin-nx-16gb", **settings: object) -> BuildOrder:
    config = RecipeConfig(model=str(model), dla=0, **settings)  # type: ignore[arg-type]
    return BuildOrder(name="net", recipe=Recipe(model, model, config), target=target)


def test_without_a_target_the_network_stays_as_it_is(tmp_path: Path) -> None:
    model = half_and_half(tmp_path / "m.onnx")
    fitted = place(order(model, target=None), tmp_path)
    assert fitted.path == model
    assert fitted.placement is None


def test_too_little_on_the_dla_is_refused_with_the_share(tmp_path: Path) -> None:
    model = half_and_half(tmp_path / "m.onnx")
    with pytest.raises(PlacementError, match="expected at least 100%") as caught:
        place(order(model, dla_coverage=1.0), tmp_path)
    assert "dla_coverage" in caught.value.hint
    placement = place(order(model, dla_coverage=0.5), tmp_path).placement
    assert placement is not None
    assert 0.5 < placement.flops_share < 1.0


def test_strict_names_the_layer_that_stays(tmp_path: Path) -> None:
    model = half_and_half(tmp_path / "m.onnx")
    with pytest.raises(PlacementError, match=r"1 compute layers stay.*matmul \(MatMul\)"):
        place(order(model, strict=True), tmp_path)


def test_a_board_without_a_dla_says_which_have_one(tmp_path: Path) -> None:
    with pytest.raises(PlacementError, match="no DLA") as caught:
        place(order(half_and_half(tmp_path / "m.onnx"), target="orin-nano-8gb"), tmp_path)
    assert "orin-nx-16gb" in caught.value.hint


def test_a_tensorrt_without_dla_says_which_releases_have_it(tmp_path: Path) -> None:
    made = order(half_and_half(tmp_path / "m.onnx"))
    with pytest.raises(PlacementError) as caught:
        place(BuildOrder(made.name, made.recipe, made.target, trt="10.13"), tmp_path)
    assert "JetPack 6" in caught.value.hint


def test_fp32_is_not_on_the_dla(tmp_path: Path) -> None:
    with pytest.raises(PlacementError, match="FP16 and INT8 only"):
        place(order(half_and_half(tmp_path / "m.onnx"), precision="fp32"), tmp_path)


def test_only_an_engine_for_this_machine_gets_a_core(tmp_path: Path) -> None:
    made = order(half_and_half(tmp_path / "m.onnx"))
    assert made.core == 0
    assert BuildOrder(made.name, made.recipe, made.target, here=False).core is None
    assert BuildOrder(made.name, made.recipe).core is None
