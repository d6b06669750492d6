from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgetrt.errors import InferenceError, ModelError
from edgetrt.model.activations import Activation, measure
from edgetrt.model.half import HalfOptions
from edgetrt.model.precision import HalfReport, cast_half
from edgetrt.model.reference import Reference
from edgetrt.model.storage import read_skeleton
from edgetrt.model.wiring import Wiring
from tests.model.networks import FLOAT, detector, images, network, save


def cast(
    model: onnx.ModelProto,
    folder: Path,
    frames: list[dict[str, np.ndarray]],
    options: HalfOptions | None = None,
    keep_io: bool = True,
) -> tuple[HalfReport, Path]:
    path = save(model, folder / "net.onnx")
    out = folder / "half.onnx"
    report = cast_half(path, out, measure(read_skeleton(path), frames), options, keep_io)
    onnx.checker.check_model(onnx.load(out), full_check=True)
    return report, out


def ops(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def why(report: HalfReport) -> dict[str, str]:
    return {kept.node: kept.reason for kept in report.kept}


def test_measured_ranges_are_those_of_the_tensors(tmp_path: Path) -> None:
    model, frames = detector(), images(4)
    path = save(model, tmp_path / "net.onnx")
    skeleton = read_skeleton(path)
    few = measure(skeleton, frames, histogram=True, budget_bytes=1)  # one tensor per pass
    many = measure(skeleton, frames, histogram=True)
    out = np.stack([Reference(path)(feed)["out"] for feed in frames])
    assert many["out"].high == pytest.approx(out.max(), rel=1e-5)
    assert many["out"].low == pytest.approx(out.min(), rel=1e-4)
    assert many["out"].power == pytest.approx(float(np.mean(out.astype(float) ** 2)), rel=1e-3)
    np.testing.assert_allclose(many["out"].channels, out[:, 0].max((0, 2)), rtol=1e-5)
    assert many["x"].high <= 1.0
    assert few.keys() == many.keys() == set(Wiring(skeleton).activations())
    for name, seen in many.items():
        assert (few[name].low, few[name].high) == (seen.low, seen.high), name
        assert seen.counts.sum() == sum(1 for _ in frames) * _size(skeleton, name)


def _size(model: onnx.ModelProto, name: str) -> int:
    return int(np.prod(Wiring(model).shapes[name]))


def test_a_histogram_widens_and_loses_nothing() -> None:
    seen = Activation()
    for peak in (0.0, 1.0, 7.0, 1000.0):
        seen.add(np.linspace(-peak, peak, 500, dtype=np.float32), histogram=True)
    assert seen.counts.sum() == 2000
    assert seen.width * len(seen.counts) >= 1000


def test_infinities_are_noticed_and_left_out() -> None:
    seen = Activation()
    seen.add(np.array([1.0, np.inf, -2.0], np.float32), histogram=True)
    assert not seen.finite
    assert (seen.low, seen.high) == (-2.0, 1.0)


def test_a_frame_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    skeleton = read_skeleton(save(detector(), tmp_path / "net.onnx"))
    with pytest.raises(InferenceError, match=r"x \(1, 3, 8, 8\)"):
        measure(skeleton, [{"x": np.zeros((1, 3, 8, 8), np.float32)}])


def test_answers_stay_within_half_precision(tmp_path: Path) -> None:
    report, out = cast(detector(), tmp_path, images(4))
    before, after = Reference(tmp_path / "net.onnx"), Reference(out)
    for feed in images(3, seed=9):
        a, b = before(feed)["out"], after(feed)["out"]
        assert b.dtype == np.float32
        assert np.abs(a - b)[:, :4].max() < 1.0
        assert np.abs(a - b)[:, 4].max() < 2e-3
    assert report.bytes_after < 0.6 * report.bytes_before
    assert out.stat().st_size < (tmp_path / "net.onnx").stat().st_size


def test_a_decode_in_pixels_stays_float(tmp_path: Path) -> None:
    report, out = cast(detector(), tmp_path, images(2))
    assert {"to_pixels", "join"} <= set(why(report))
    assert not {"conv1", "conv2", "residual", "box_head", "score_head"} & set(why(report))
    assert "steps by" in why(report)["to_pixels"]
    # One cast at the input, one on each branch of the head: none back to back.
    assert report.casts == ops(out)["Cast"] == 3


def test_a_small_decode_is_cast_whole(tmp_path: Path) -> None:
    report, out = cast(detector(pixels=1.0), tmp_path, images(2))
    assert report.kept == ()
    assert ops(out)["Cast"] == 2


def test_no_two_casts_follow_each_other(tmp_path: Path) -> None:
    _, out = cast(detector(), tmp_path, images(2))
    model = onnx.load(out)
    cast_outputs = {n.output[0] for n in model.graph.node if n.op_type == "Cast"}
    assert not any(n.input[0] in cast_outputs for n in model.graph.node if n.op_type == "Cast")
    sources = [(n.input[0], n.attribute[0].i) for n in model.graph.node if n.op_type == "Cast"]
    assert len(sources) == len(set(sources))


def test_inputs_and_outputs_can_be_half(tmp_path: Path) -> None:
    _, out = cast(detector(pixels=1.0), tmp_path, images(2), keep_io=False)
    model = onnx.load(out)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    assert ops(out)["Cast"] == 0
    feed = {"x": images(1)[0]["x"].astype(np.float16)}
    assert Reference(out)(feed)["out"].dtype == np.float16


def test_named_nodes_are_kept(tmp_path: Path) -> None:
    report, out = cast(detector(pixels=1.0), tmp_path, images(2), HalfOptions(keep=["conv2"]))
    assert why(report) == {"conv2": "asked for"}
    weights = {t.name: t.data_type for t in onnx.load(out).graph.initializer}
    assert weights["w2"] == TensorProto.FLOAT
    assert weights["w1_fp16"] == TensorProto.FLOAT16


def scaled(factor: float) -> onnx.ModelProto:
    """x -> Conv -> Mul by a factor -> Mul by its inverse -> Conv -> y."""
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((3, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first"),
        helper.make_node("Mul", ["a", "up"], ["b"], "up"),
        helper.make_node("Mul", ["b", "down"], ["c"], "down"),
        helper.make_node("Conv", ["c", "w"], ["y"], "last"),
    ]
    weights = {"w": kernel, "up": np.float32([factor]), "down": np.float32([1 / factor])}
    return network(nodes, {"x": (1, 3, 16, 16)}, {"y": (1, 3, 16, 16)}, weights)


@pytest.mark.parametrize(
    ("factor", "reason"), [(1e5, "FP16 ends at 65504"), (1e-7, "loses digits below")]
)
def test_values_out_of_range_stay_float(tmp_path: Path, factor: float, reason: str) -> None:
    report, out = cast(scaled(factor), tmp_path, images(2))
    assert {"up", "down"} <= set(why(report))
    assert any(reason in text for text in why(report).values())
    assert report.half_nodes == 2  # both convolutions share one weight, stored once
    assert [t.name for t in onnx.load(out).graph.initializer].count("w_fp16") == 1
    feed = images(1, seed=3)[0]
    a, b = Reference(tmp_path / "net.onnx")(feed)["y"], Reference(out)(feed)["y"]
    np.testing.assert_allclose(a, b, atol=0.02)


def test_a_weight_that_both_precisions_read_is_stored_twice(tmp_path: Path) -> None:
    report, out = cast(scaled(2.0), tmp_path, images(2), HalfOptions(keep=["first"]))
    assert {"w", "w_fp16"} <= {t.name for t in onnx.load(out).graph.initializer}
    assert "first" in why(report)


def test_operators_without_half_form_and_their_settings_stay_float(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("Constant", [], ["scales"], "scales", value_floats=[1.0, 1.0, 2.0, 2.0]),
        helper.make_node("Resize", ["a", "", "scales"], ["b"], "resize", mode="nearest"),
        helper.make_node("Shape", ["b"], ["dims"], "shape"),
        helper.make_node("Gather", ["dims", "two"], ["height"], "height"),
        helper.make_node("Cast", ["height"], ["limit"], "to_float", to=FLOAT),
        helper.make_node("Range", ["zero", "limit", "one"], ["ramp"], "ramp"),
        helper.make_node("Mul", ["b", "ramp"], ["c"], "ramped"),
        helper.make_node("Conv", ["c", "w"], ["y"], "last"),
    ]
    weights = {
        "w": np.ones((3, 3, 1, 1), np.float32),
        "two": np.array(2, np.int64),
        "zero": np.float32(0),
        "one": np.float32(1),
    }
    model = network(nodes, {"x": (1, 3, 16, 16)}, {"y": ("n", "c", "h", "w")}, weights)
    report, out = cast(model, tmp_path, images(2))
    assert "no FP16 form" in why(report)["ramp"]
    resize = next(n for n in onnx.load(out).graph.node if n.op_type == "Resize")
    assert resize.input[2] == "scales"
    assert resize.input[0].endswith("_fp16")
    feed = images(1)[0]
    a, b = Reference(tmp_path / "net.onnx")(feed)["y"], Reference(out)(feed)["y"]
    np.testing.assert_allclose(a, b, rtol=0.01, atol=0.5)


def test_bodies_of_control_flow_stay_float_and_find_their_names(tmp_path: Path) -> None:
    def body(name: str, op: str) -> onnx.GraphProto:
        node = helper.make_node(op, ["a"], [f"{name}_y"], f"{name}_node")
        return helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(f"{name}_y", FLOAT, None)]
        )

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("ReduceMax", ["a"], ["peak"], "peak", keepdims=0),
        helper.make_node("Greater", ["peak", "half"], ["high"], "compare"),
        helper.make_node(
            "If",
            ["high"],
            ["b"],
            "choice",
            then_branch=body("then", "Relu"),
            else_branch=body("other", "Neg"),
        ),
        helper.make_node("Conv", ["b", "w"], ["y"], "last"),
    ]
    weights = {"w": np.ones((3, 3, 1, 1), np.float32), "half": np.float32(0.5)}
    model = network(nodes, {"x": (1, 3, 16, 16)}, {"y": ("n", "c", "h", "w")}, weights)
    report, out = cast(model, tmp_path, images(2))
    assert "control flow" in why(report)["choice"]
    feed = images(1)[0]
    a, b = Reference(tmp_path / "net.onnx")(feed)["y"], Reference(out)(feed)["y"]
    np.testing.assert_allclose(a, b, rtol=0.01)


def test_external_weights_are_cast(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(detector(), path, save_as_external_data=True, location="w.bin", size_threshold=64)
    cast_half(path, tmp_path / "half.onnx", {})
    feed = images(1)[0]
    a, b = Reference(path)(feed)["out"], Reference(tmp_path / "half.onnx")(feed)["out"]
    np.testing.assert_allclose(a, b, atol=2.0)


def test_unmeasured_is_said(tmp_path: Path) -> None:
    path = save(detector(), tmp_path / "net.onnx")
    assert not cast_half(path, tmp_path / "half.onnx", {}).measured


def test_an_old_opset_is_refused(tmp_path: Path) -> None:
    model = detector()
    model.opset_import[0].version = 10
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="opset 10"):
        cast_half(path, tmp_path / "half.onnx", {})
    assert not (tmp_path / "half.onnx").exists()


@pytest.mark.parametrize(
    ("op", "extra", "opset"),
    [
        ("BatchNormalization", ["ones", "zeros", "zeros", "ones"], 17),
        ("LayerNormalization", ["row", "row"], 17),
        ("RMSNormalization", ["row"], 23),
    ],
)
def test_normalizations_change_type_as_a_whole(
    tmp_path: Path, op: str, extra: list[str], opset: int
) -> None:
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip(f"this onnx ends at opset {onnx.defs.onnx_opset_version()}")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node(op, ["a", *extra], ["y"], "norm"),
    ]
    weights = {
        "w": np.ones((3, 3, 1, 1), np.float32),
        "ones": np.ones(3, np.float32),
        "zeros": np.zeros(3, np.float32),
        "row": np.ones(16, np.float32),
    }
    weights = {name: v for name, v in weights.items() if name in ("w", *extra)}
    model = network(nodes, {"x": (1, 3, 16, 16)}, {"y": (1, 3, 16, 16)}, weights, opset)
    report, out = cast(model, tmp_path, images(1))
    assert report.half_nodes == 2
    norm = next(n for n in onnx.load(out).graph.node if n.name == "norm")
    assert all(name.endswith("_fp16") for name in norm.input)


STORED = sorted((Path(onnx.__file__).parent / "backend/test/data").glob("*/*/model.onnx"))


def test_stored_models_are_cast_or_refused(tmp_path: Path) -> None:
    done = 0
    for path in STORED:
        try:
            cast_half(path, tmp_path / "half.onnx", {})
        except ModelError as error:
            assert error.hint, path
            continue
        onnx.checker.check_model(onnx.load(tmp_path / "half.onnx"))
        done += 1
    assert done == 0 or done >= 5  # some wheels come without them
