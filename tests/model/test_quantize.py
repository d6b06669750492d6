from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetrt.errors import ModelError
from edgetrt.model.activations import Activation, measure
from edgetrt.model.quantize import (
    CPU,
    CPU_SATURATING,
    TENSORRT,
    TENSORRT_8,
    Quantizer,
    Style,
    cpu_style,
    is_quantized,
)
from edgetrt.model.reference import Reference
from edgetrt.model.storage import read_skeleton
from edgetrt.model.thresholds import Method, divergence, limits_of
from tests.model.networks import detector, images, network, save


def prepared(folder: Path, style: Style = TENSORRT, method: Method = "minmax") -> Quantizer:
    path = save(detector(), folder / "net.onnx")
    seen = measure(read_skeleton(path), images(4), histogram=True)
    return Quantizer(path, seen, style, method)


def written(quantizer: Quantizer, out: Path, keep: tuple[str, ...] = ()) -> onnx.ModelProto:
    quantizer.write(out, keep)
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    return model


DECODE = ("to_pixels", "to_score", "box_unit", "join", "flat")


def test_everything_but_the_decode_keeps_the_answer(tmp_path: Path) -> None:
    quantizer = prepared(tmp_path)
    written(quantizer, tmp_path / "int8.onnx", DECODE)
    a, b = Reference(tmp_path / "net.onnx"), Reference(tmp_path / "int8.onnx", simulate=True)
    for feed in images(3, seed=7):
        x, y = a(feed)["out"], b(feed)["out"]
        assert np.abs(x - y)[:, :4].max() < 15  # of 500 pixels
        assert np.abs(x - y)[:, 4].max() < 0.05


def test_int8_of_everything_leaves_no_score(tmp_path: Path) -> None:
    quantizer = prepared(tmp_path)
    written(quantizer, tmp_path / "int8.onnx")
    out = Reference(tmp_path / "int8.onnx")(images(1)[0])["out"]
    assert not out[:, 4].any()
    assert out[:, :4].any()


def test_tensorrt_gets_symmetric_pairs_and_float_biases(tmp_path: Path) -> None:
    model = written(prepared(tmp_path), tmp_path / "int8.onnx", DECODE)
    weights = {t.name: t for t in model.graph.initializer}
    zero_points = [n.input[2] for n in model.graph.node if n.op_type.endswith("tizeLinear")]
    assert zero_points
    for name in zero_points:
        assert weights[name].data_type == TensorProto.INT8
        assert not numpy_helper.to_array(weights[name]).any()
    conv = next(n for n in model.graph.node if n.name == "conv1")
    assert conv.input[2] == "b1"
    scales = [t for n, t in weights.items() if n.startswith("w1") and "scale" in n]
    assert [list(t.dims) for t in scales] == [[8]]  # one per output channel
    # The pair stands behind the activation, not between it and its convolution.
    relu = next(n for n in model.graph.node if n.name == "relu1")
    assert relu.input[0] == conv.output[0]


def test_tensorrt_8_gets_float_weights_with_pairs(tmp_path: Path) -> None:
    model = written(prepared(tmp_path, TENSORRT_8), tmp_path / "int8.onnx", DECODE)
    weights = {t.name: t.data_type for t in model.graph.initializer}
    assert weights["w1"] == TensorProto.FLOAT
    counts = Counter(n.op_type for n in model.graph.node)
    assert counts["QuantizeLinear"] == counts["DequantizeLinear"]


@pytest.mark.parametrize("style", [CPU, CPU_SATURATING])
def test_cpus_get_unsigned_activations(tmp_path: Path, style: Style) -> None:
    model = written(prepared(tmp_path, style), tmp_path / "int8.onnx", DECODE)
    kinds = {t.data_type for t in model.graph.initializer if "zero_point" in t.name}
    assert TensorProto.UINT8 in kinds
    stored = next(t for t in model.graph.initializer if t.name.startswith("w1_quantized"))
    peak = np.abs(numpy_helper.to_array(stored).astype(int)).max()
    assert peak <= 64 if style.seven_bit_weights else peak > 100


def test_cpus_without_vnni_get_seven_bits() -> None:
    assert cpu_style("x86_64", ["avx2"]) is CPU_SATURATING
    assert cpu_style("x86_64", ["avx2", "avx512_vnni"]) is CPU
    assert cpu_style("aarch64", []) is CPU


def test_nothing_to_quantize_writes_the_network(tmp_path: Path) -> None:
    quantizer = prepared(tmp_path)
    names = tuple(node.name for node in quantizer.candidates())
    assert "conv1" in names
    model = written(quantizer, tmp_path / "same.onnx", names)
    assert model.graph == onnx.load(tmp_path / "net.onnx").graph


def test_constants_in_nodes_are_quantized_too(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.float32([2.0]))),
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["a", "two"], ["y"]),
    ]
    weights = {"w": np.ones((4, 3, 1, 1), np.float32)}
    path = save(
        network(nodes, {"x": (1, 3, 16, 16)}, {"y": (1, 4, 16, 16)}, weights), tmp_path / "n.onnx"
    )
    quantizer = Quantizer(path, measure(read_skeleton(path), images(2)))
    model = written(quantizer, tmp_path / "int8.onnx")
    assert len({n.name for n in model.graph.node if n.op_type in ("Conv", "Mul")}) == 2
    a, b = Reference(path), Reference(tmp_path / "int8.onnx", simulate=True)
    feed = images(1)[0]
    np.testing.assert_allclose(a(feed)["y"], b(feed)["y"], atol=0.15)


def test_quantized_networks_are_recognised_and_refused(tmp_path: Path) -> None:
    quantizer = prepared(tmp_path)
    assert not is_quantized(quantizer.model)
    model = written(quantizer, tmp_path / "int8.onnx")
    assert is_quantized(model)
    with pytest.raises(ModelError, match="quantized already"):
        Quantizer(tmp_path / "int8.onnx", quantizer.activations)


def test_int8_needs_measured_frames(tmp_path: Path) -> None:
    path = save(detector(), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="no FP32 tensors were measured") as caught:
        Quantizer(path, {})
    assert "--calib" in caught.value.hint


def test_int8_needs_per_channel_pairs(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    weights = {"w": np.ones((4, 3, 1, 1), np.float32)}
    model = network(nodes, {"x": (1, 3, 16, 16)}, {"y": (1, 4, 16, 16)}, weights, opset=12)
    save(model, path)
    with pytest.raises(ModelError, match="opset 12, expected 13"):
        Quantizer(path, {"x": Activation()})


def bell(outliers: int = 0) -> Activation:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(100_000).astype(np.float32)
    values[:outliers] = 40.0
    seen = Activation()
    seen.add(values, histogram=True)
    return seen


def test_methods_differ_in_what_they_cut() -> None:
    seen = {"t": bell(outliers=1)}
    whole, share, entropy = (
        limits_of(seen, m)["t"][1]
        for m in ("minmax", "percentile", "entropy")  # type: ignore[arg-type]
    )
    assert whole == 40.0
    assert 3 < share <= 40.0
    assert 2 < entropy < 20.0


def test_entropy_keeps_a_range_without_outliers() -> None:
    seen = Activation()
    seen.add(np.linspace(0, 1, 50_000, dtype=np.float32), histogram=True)
    low, high = limits_of({"t": seen}, "entropy")["t"]
    assert low == 0.0
    assert high > 0.9


def test_a_range_always_holds_zero() -> None:
    seen = Activation()
    seen.add(np.array([3.0, 5.0], np.float32), histogram=False)
    assert limits_of({"t": seen, "empty": Activation()}) == {"t": (0.0, 5.0)}


def test_divergence_of_few_values_is_nothing() -> None:
    counts = np.zeros(2048, np.int64)
    counts[5] = 10
    assert divergence(counts, 128) == pytest.approx(0.0, abs=1e-9)
    assert divergence(np.zeros(2048, np.int64), 128) == 0.0


def straightforward(quantizer: Quantizer, out: Path) -> onnx.ModelProto:
    """The same with every weight in the quantizer's own hands."""
    quantizer.stand_ins = {}
    return written(quantizer, out, DECODE)


@pytest.mark.parametrize("style", [TENSORRT, TENSORRT_8, CPU, CPU_SATURATING])
def test_stand_ins_change_nothing(tmp_path: Path, style: Style) -> None:
    quantizer = prepared(tmp_path, style)
    small = written(quantizer, tmp_path / "small.onnx", DECODE)
    assert quantizer.stand_ins.keys() >= {"w2"}
    whole = straightforward(quantizer, tmp_path / "whole.onnx")
    a = {t.name: numpy_helper.to_array(t) for t in small.graph.initializer}
    b = {t.name: numpy_helper.to_array(t) for t in whole.graph.initializer}
    assert a.keys() == b.keys()
    for name, values in a.items():
        if values.dtype == np.int8:  # a tie may round to either side
            assert np.abs(values.astype(int) - b[name].astype(int)).max(initial=0) <= 1, name
            assert np.mean(values != b[name]) < 0.01, name
        else:
            np.testing.assert_allclose(values, b[name], rtol=1e-6, err_msg=name)
    assert [n.name for n in small.graph.node] == [n.name for n in whole.graph.node]


def test_channels_of_matrices_follow_the_operator(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "g", "gb"], ["a"], "gemm", transB=1),
        helper.make_node("MatMul", ["a", "m"], ["b"], "matmul"),
        helper.make_node("Gemm", ["b", "h"], ["y"], "plain_gemm"),
    ]
    weights = {
        "g": rng.standard_normal((40, 30)).astype(np.float32),
        "gb": rng.standard_normal(40).astype(np.float32),
        "m": rng.standard_normal((40, 50)).astype(np.float32),
        "h": rng.standard_normal((50, 20)).astype(np.float32),
    }
    path = save(network(nodes, {"x": (1, 30)}, {"y": (1, 20)}, weights), tmp_path / "net.onnx")
    frames = [{"x": rng.standard_normal((1, 30)).astype(np.float32)} for _ in range(3)]
    quantizer = Quantizer(path, measure(read_skeleton(path), frames))
    assert {n: s.axis for n, s in quantizer.stand_ins.items()} == {"g": 0, "m": 1, "h": 1}
    model = written(quantizer, tmp_path / "int8.onnx")
    scales = {t.name: list(t.dims) for t in model.graph.initializer if t.name.endswith("_scale")}
    assert (scales["g_scale"], scales["m_scale"], scales["h_scale"]) == ([40], [50], [20])
    a, b = Reference(path), Reference(tmp_path / "int8.onnx", simulate=True)
    x, y = a(frames[0])["y"], b(frames[0])["y"]
    assert np.abs(x - y).max() < 0.05 * np.abs(x).max()
