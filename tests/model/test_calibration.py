from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgetrt.errors import ModelError
from edgetrt.model.activations import measure
from edgetrt.model.calibration import cache_text, parse_cache, translate, version_number
from edgetrt.model.quantize import CPU, TENSORRT, TENSORRT_8, Quantizer, Style
from edgetrt.model.reference import Reference
from edgetrt.model.scales import complete, equalized
from edgetrt.model.storage import read_skeleton
from edgetrt.model.wiring import Wiring
from tests.model.networks import detector, images, network, save

DECODE = ("to_pixels", "to_score", "box_unit", "join", "flat")


def quantized(folder: Path, style: Style = TENSORRT, keep: tuple[str, ...] = DECODE) -> Path:
    path = save(detector(), folder / "net.onnx")
    quantizer = Quantizer(path, measure(read_skeleton(path), images(4)), style)
    quantizer.write(folder / "int8.onnx", keep)
    return folder / "int8.onnx"


def test_the_cache_is_as_documented_byte_for_byte() -> None:
    text = cache_text({"images": 1.0, "/net/Conv_output_0": 1 / 127, "a:0": 2.0**-20})
    assert text == (
        "TRT-8600-EntropyCalibration2\n"
        "images: 3f800000\n"
        "/net/Conv_output_0: 3c010204\n"
        "a:0: 35800000\n"
    )


@pytest.mark.parametrize(
    ("release", "number"), [((8, 5, 2), 8502), ((8, 6, 0), 8600), ((10, 3, 0), 100300)]
)
def test_version_numbers_as_tensorrt_counts(release: tuple[int, int, int], number: int) -> None:
    assert version_number(release) == number
    assert cache_text({}, release).startswith(f"TRT-{number}-")


names = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1)
scales = st.floats(2.0**-120, 2.0**100, width=32)


@given(st.dictionaries(names, scales))
def test_a_cache_reads_back(values: dict[str, float]) -> None:
    assert parse_cache(cache_text(values)) == (8600, values)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "first line"),
        ("images: 3f800000", "first line"),
        ("TRT-8600-EntropyCalibration2\nimages 3f800000", "line 2"),
        ("TRT-8600-EntropyCalibration2\na: 3f800000\nb: 0x3f800000", "line 3"),
    ],
)
def test_what_is_no_cache_is_refused(text: str, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        parse_cache(text)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e-60])
def test_impossible_scales_are_not_written(scale: float) -> None:
    with pytest.raises(ModelError, match="cannot be written"):
        cache_text({"a": scale})


@pytest.mark.parametrize("style", [TENSORRT, TENSORRT_8])
def test_a_quantized_network_becomes_plain(tmp_path: Path, style: Style) -> None:
    path, out = quantized(tmp_path, style), tmp_path / "plain.onnx"
    calibration = translate(path, out, equalize=False)
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    original = onnx.load(tmp_path / "net.onnx")
    assert {n.name for n in model.graph.node} == {n.name for n in original.graph.node}
    assert not any("Quantize" in t.name for t in model.graph.initializer if t.dims)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    conv = next(n for n in model.graph.node if n.name == "conv1")
    expected = numpy_helper.to_array(original.graph.initializer[0])
    np.testing.assert_allclose(weights[conv.input[1]], expected, atol=np.abs(expected).max() / 127)
    feed = images(1, seed=8)[0]
    a, b = Reference(tmp_path / "net.onnx")(feed)["out"], Reference(out)(feed)["out"]
    assert np.abs(a - b)[:, :4].max() < 15
    assert calibration.scales["x"] == pytest.approx(1 / 127, rel=0.01)


def test_scales_cover_the_region_and_the_rest_is_half(tmp_path: Path) -> None:
    path, out = quantized(tmp_path), tmp_path / "plain.onnx"
    calibration = translate(path, out)
    region = {"x", "c1", "r1", "c2", "r2", "sum"}
    assert region <= calibration.scales.keys()
    assert (
        calibration.scales["c1"] == calibration.scales["r1"]
    )  # fused: the convolution's is the relu's
    assert calibration.scales["r1"] == calibration.scales["r2"]  # inputs of an addition on a DLA
    assert {"to_pixels", "join", "flat"} <= set(calibration.half_layers)
    assert not {"conv1", "conv2", "relu1", "residual"} & set(calibration.half_layers)
    assert "to_pixels:fp16" in calibration.layer_precisions().split(",")
    assert "out" in calibration.missing
    version, read = parse_cache(calibration.cache((10, 3, 0)))
    assert version == 100300
    assert read == {n: float(np.float32(s)) for n, s in calibration.scales.items()}


def test_measured_ranges_fill_what_does_not_follow(tmp_path: Path) -> None:
    path = quantized(tmp_path)
    seen = measure(read_skeleton(tmp_path / "net.onnx"), images(4))
    calibration = translate(path, tmp_path / "plain.onnx", seen)
    assert calibration.missing == ()
    assert calibration.scales["out"] == pytest.approx(seen["out"].peak / 127)
    assert "flat" in calibration.half_layers


def test_a_kept_convolution_is_a_half_layer(tmp_path: Path) -> None:
    path = quantized(tmp_path, keep=(*DECODE, "conv2"))
    calibration = translate(path, tmp_path / "plain.onnx")
    assert "conv2" in calibration.half_layers
    assert "conv1" not in calibration.half_layers


def test_everything_quantized_keeps_the_output_name(tmp_path: Path) -> None:
    path = quantized(tmp_path, keep=())
    calibration = translate(path, tmp_path / "plain.onnx")
    model = onnx.load(tmp_path / "plain.onnx")
    assert [o.name for o in model.graph.output] == ["out"]
    assert "out" in calibration.scales
    assert Reference(tmp_path / "plain.onnx")(images(1)[0])["out"].shape == (1, 5, 256)


def test_names_that_break_a_list_are_replaced(tmp_path: Path) -> None:
    model = detector()
    for node in model.graph.node:
        node.name = f"{node.name}:0,a"
    path = save(model, tmp_path / "net.onnx")
    quantizer = Quantizer(path, measure(read_skeleton(path), images(2)))
    quantizer.write(tmp_path / "int8.onnx", [f"{name}:0,a" for name in DECODE])
    calibration = translate(tmp_path / "int8.onnx", tmp_path / "plain.onnx")
    assert "join_0_a" in calibration.half_layers
    assert all(part.count(":") == 1 for part in calibration.layer_precisions().split(","))


def test_asymmetric_activations_are_refused(tmp_path: Path) -> None:
    path = quantized(tmp_path, CPU)
    with pytest.raises(ModelError, match="zero point") as caught:
        translate(path, tmp_path / "plain.onnx")
    assert "symmetric" in caught.value.hint


def test_a_float_network_has_no_scales(tmp_path: Path) -> None:
    path = save(detector(), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="no QuantizeLinear"):
        translate(path, tmp_path / "plain.onnx")


def test_integers_between_operators_are_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        helper.make_node("Transpose", ["q"], ["t"], "turn"),
        helper.make_node("DequantizeLinear", ["t", "s", "z"], ["y"], "dq"),
    ]
    weights = {"s": np.float32(0.1), "z": np.int8(0)}
    model = network(nodes, {"x": (1, 3)}, {"y": (3, 1)}, weights)
    path = save(model, tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="turn takes the integers of q"):
        translate(path, tmp_path / "plain.onnx")


def chain() -> Wiring:
    """x -> Relu -> MaxPool -> a; (a, b) -> Concat -> Sigmoid -> y."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["a"], "pool", kernel_shape=[2, 2]),
        helper.make_node("Concat", ["a", "b"], ["c"], "cat", axis=1),
        helper.make_node("Sigmoid", ["c"], ["y"], "squash"),
    ]
    inputs = {"x": (1, 2, 5, 5), "b": (1, 1, 4, 4)}
    return Wiring(network(nodes, inputs, {"y": (1, 3, 4, 4)}, {}))


def test_scales_follow_operators_and_shares() -> None:
    found = complete(chain(), {"x": 0.5, "b": 2.0})
    assert found == {"x": 0.5, "b": 2.0, "r": 0.5, "a": 0.5, "c": 2.0, "y": pytest.approx(1 / 127)}
    even = equalized(chain(), found)
    assert even["r"] == even["a"] == even["b"] == even["c"] == 2.0
    assert even["x"] == 0.5


def test_scales_follow_backwards_from_a_fused_layer() -> None:
    assert complete(chain(), {"c": 1.0})["b"] == 1.0
    assert "x" not in complete(chain(), {"b": 1.0})
