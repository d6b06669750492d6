"""Placement without hardware: each limit from both sides, and whole networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgetrt.errors import ConfigError
from edgetrt.model import dla_report, onnx_file
from edgetrt.model.dla import check
from edgetrt.model.dla_rules import rules
from edgetrt.model.graph import Graph
from edgetrt.model.placement import LayerPlacement
from edgetrt.model.rewrite import NAMES
from edgetrt.model.windows import buffer_banks
from tests.model.onnx_graphs import conv, graph_of, model, node, one, weights

PERSON = Path(__file__).parents[2] / "engines" / "person"
ORIN = "orin-nx-16gb"


def placed(
    graph: Graph, trt: str = "10.3", precision: str = "fp16", target: str = ORIN
) -> LayerPlacement:
    """The last layer of a network."""
    return check(graph, target, trt, precision).layers[-1]


def two(op: str, left: tuple[int, ...], right: tuple[int, ...], **attributes: object) -> Graph:
    return graph_of([node(op, "x z", "y", **attributes)], {"x": left, "z": right}, ["y"])


def with_constant(op: str, values: list[float] | np.ndarray, **attributes: object) -> Graph:  # type: ignore[type-arg]
    array = np.asarray(values, np.float32)
    return graph_of(
        [node(op, "x c", "y", **attributes)], {"x": (1, 8, 16, 16)}, ["y"], {"c": array}
    )


def resize(scales: tuple[float, ...], **attributes: object) -> Graph:
    constants = {"s": np.asarray(scales, np.float32)}
    return graph_of(
        [node("Resize", "x - s", "y", **attributes)], {"x": (1, 8, 16, 16)}, ["y"], constants
    )


NEAREST = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}

FITS = {
    "kernel 31": conv(kernel=31, channels=(1, 1), shape=(1, 1, 64, 64), pads=[0, 0, 0, 0]),
    "stride 8": conv(strides=[8, 8]),
    "depthwise": graph_of(
        [node("Conv", "x w", "y", group=8)],
        {"x": (1, 8, 16, 16)},
        ["y"],
        {"w": weights(8, 1, 3, 3)},
    ),
    "same padding": conv(auto_pad="SAME_UPPER", pads=None),
    "window 8": one("MaxPool", kernel_shape=[8, 8]),
    "relu": one("Relu"),
    "leaky": one("LeakyRelu"),
    "relu6": graph_of(
        [node("Clip", "x a b", "y")],
        {"x": (1, 8, 4, 4)},
        ["y"],
        {"a": np.float32(0).reshape(()), "b": np.float32(6).reshape(())},
    ),
    "add": two("Add", (1, 8, 4, 4), (1, 8, 4, 4)),
    "gate": two("Mul", (1, 8, 4, 4), (1, 8, 1, 1)),
    "per channel": with_constant("Mul", np.ones((8, 1, 1))),
    "number": with_constant("Add", np.float32(3)),
    "channels": two("Concat", (1, 8, 4, 4), (1, 3, 4, 4), axis=1),
    "from behind": two("Concat", (1, 8, 4, 4), (1, 3, 4, 4), axis=-3),
    "resize 2": resize((1, 1, 2, 2), **NEAREST),
    "bilinear 4": resize((1, 1, 4, 4), mode="linear"),
    "softmax": one("Softmax", axis=1),
    "transpose": one("Transpose", perm=[0, 2, 3, 1]),
    "divide": with_constant("Div", [2.0]),
    "maximum": one("GlobalMaxPool"),
    "batch 4096": one("Relu", (4096, 1, 2, 2)),
    "prelu": with_constant("PRelu", np.ones((8, 1, 1))),
    "lrn": one("LRN", size=5),
    "deconvolution": graph_of(
        [node("ConvTranspose", "x w", "y", strides=[2, 2])],
        {"x": (1, 8, 8, 8)},
        ["y"],
        {"w": weights(8, 4, 2, 2)},
    ),
}


@pytest.mark.parametrize("name", FITS)
def test_fits(name: str) -> None:
    layer = placed(FITS[name])

    assert (layer.device, layer.reason) == ("dla", "")
    assert layer.loadable == 0


REFUSED = {
    "kernel 33": (conv(kernel=33, channels=(1, 1), shape=(1, 1, 64, 64)), "kernel 33", ""),
    "stride 9": (conv(strides=[9, 9]), "stride 9", ""),
    "wide window": (
        one("MaxPool", kernel_shape=[13, 13], pads=[6] * 4),
        "window 13",
        "pooling_windows",
    ),
    "indices": (
        graph_of(
            [
                node("MaxPool", "x", "p i", kernel_shape=[2, 2]),
                node("Cast", "i", "y", to=TensorProto.FLOAT),
            ],
            {"x": (1, 8, 4, 4)},
            ["p", "y"],
        ),
        "",
        "",
    ),
    "clip": (
        graph_of(
            [node("Clip", "x a", "y")],
            {"x": (1, 8, 4, 4)},
            ["y"],
            {"a": np.float32(-1).reshape(())},
        ),
        "clips below at -1",
        "activations",
    ),
    "broadcast": (two("Mul", (1, 8, 4, 4), (1, 1, 4, 4)), "broadcasts 1×1×4×4", ""),
    "other axis": (
        two("Concat", (1, 8, 4, 4), (1, 8, 4, 4), axis=2),
        "joins along dimension 2",
        "head_split",
    ),
    "resize 1.5": (resize((1, 1, 1.5, 1.5), **NEAREST), "scales by 1.5×1.5", ""),
    "align corners": (
        resize((1, 1, 2, 2), mode="linear", coordinate_transformation_mode="align_corners"),
        "samples as linear:align_corners",
        "resize_scales",
    ),
    "bilinear 5": (resize((1, 1, 5, 5), mode="linear"), "enlarges more", ""),
    "cubic": (resize((1, 1, 2, 2), mode="cubic"), "samples as cubic", "resize_scales"),
    "three dimensions": (one("Sigmoid", (1, 5, 99)), "3 dimensions", "head_split"),
    "batch 4097": (one("Relu", (4097, 1, 2, 2)), "batch 4097", ""),
    "wide": (one("Relu", (1, 1, 8193, 1)), "8193 is over 8192", ""),
    "open": (one("Relu", ("N", 3, 8, 8)), "dynamic dimensions (x [?, 3, 8, 8])", "static_shapes"),
    "average": (one("GlobalAveragePool"), "only the maximum", "global_pool"),
    "batch moved": (one("Transpose", perm=[1, 0, 2, 3]), "mixes the batch", "head_split"),
    "two variables": (two("MatMul", (1, 8), (8, 4)), "both depend on the input", ""),
    "softplus": (one("Softplus"), "not among the operators", ""),
    "erf": (one("Erf"), "attention", ""),
    "hard swish": (one("HardSwish"), "not exposed", "activations"),
    "layer norm": (
        with_constant("LayerNormalization", np.ones(16)),
        "no normalization over the input's own",
        "",
    ),
    "deconvolution": (
        graph_of(
            [node("ConvTranspose", "x w", "y", strides=[2, 2], pads=[1] * 4)],
            {"x": (1, 8, 8, 8)},
            ["y"],
            {"w": weights(8, 4, 4, 4)},
        ),
        "padding 1, only 0 fits",
        "deconv_padding",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_reason_and_source(name: str) -> None:
    graph, reason, rewrite = REFUSED[name]
    layer = placed(graph)

    assert layer.device == "gpu"
    assert reason in layer.reason
    assert layer.source.startswith("https://")
    assert layer.rewrite == rewrite or not reason


def test_tensorrt_decides_what_is_native() -> None:
    divide = with_constant("Div", [2.0])

    assert "8.6.12" in placed(divide, "8.5").reason
    assert placed(divide, "8.5").rewrite == "activations"
    assert placed(divide, "10.3").device == "dla"


def test_xavier_has_no_softmax() -> None:
    softmax = one("Softmax", axis=1)

    assert placed(softmax, "8.5", target="xavier-nx").reason == "only Orin's DLA has it"
    assert placed(softmax, "8.5").device == "dla"


def test_quantization_is_native_only_in_11() -> None:
    constants = {"s": np.asarray(0.1, np.float32), "z": np.asarray(0, np.int8)}
    graph = graph_of(
        [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")],
        {"x": (1, 8, 4, 4)},
        ["y"],
        constants,
    )

    assert "calibration cache" in placed(graph, "10.3", "int8").reason
    assert placed(graph, "11.4", "int8", "agx-orin-64gb").device == "dla"


def test_convolution_buffer_by_hand() -> None:
    # 1024 channels x 3x3 x 2 bytes = 18432 bytes: one bank. 64 atoms x 128 pixels / 4 = 2048 entries a
    # row, three rows: 24 banks.
    assert buffer_banks(1024, (3, 3), 1, 128, 2) == 1 + 24
    assert buffer_banks(1024, (3, 3), 1, 128, 1) == 1 + 12
    assert buffer_banks(3, (3, 3), 1, 512, 2) == 1 + 2
    assert buffer_banks(1024, (3, 3), 2, 128, 2) == 1 + 40


def test_int8_fits_the_buffer_where_fp16_does_not() -> None:
    graph = conv((1024, 4), shape=(1, 1024, 128, 128))

    assert "25 banks" in placed(graph).reason
    assert "INT8" in placed(graph).fix
    assert placed(graph, precision="int8").device == "dla"
    assert placed(graph, "8.5").device == "dla"  # before 8.6 TensorRT left it to the compiler


def test_fp32_is_not_on_the_dla() -> None:
    placement = check(one("Relu"), ORIN, "10.3", "fp32")

    assert placement.verdict == "no-dla"
    assert "FP16 and INT8 only" in placement.reason


def test_what_tensorrt_folds_is_no_layer() -> None:
    graph = graph_of(
        [
            node("Identity", "x", "i"),
            node("Dropout", "i", "d"),
            node("Shape", "d", "s"),
            node("Reshape", "d s", "r"),
            node("Relu", "r", "y"),
            node("Abs", "d", "unread"),
        ],
        {"x": (1, 8, 4, 4)},
        ["y"],
    )
    placement = check(graph, ORIN, "10.3")

    assert [layer.op for layer in placement.on("dla")] == ["Relu"]
    assert {layer.op for layer in placement.on("folded")} == {
        "Identity",
        "Dropout",
        "Shape",
        "Reshape",
        "Abs",
    }
    assert placement.verdict == "full"


def test_arithmetic_on_fixed_shapes_is_folded() -> None:
    """What PyTorch writes for x.view(x.shape[0], -1, 4, 4)."""
    constants = {
        "zero": np.asarray(0, np.int64),
        "axis": np.asarray([0], np.int64),
        "tail": np.asarray([-1, 4, 4], np.int64),
    }
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Unsqueeze", "n axis", "u"),
        node("Concat", "u tail", "shape", axis=0),
        node("Reshape", "x shape", "y"),
    ]
    placement = check(graph_of(nodes, {"x": (2, 8, 8, 8)}, ["y"], constants), ORIN, "10.3")

    assert [layer.device for layer in placement.layers] == ["folded"] * 4 + ["dla"]


def chain(*ops: str) -> Graph:
    """One layer after the other; `Gpu` is one that the DLA lacks."""
    nodes = [
        node("Erf" if op == "Gpu" else op, "x" if i == 0 else f"t{i}", f"t{i + 1}")
        for i, op in enumerate(ops)
    ]
    return graph_of(nodes, {"x": (1, 8, 4, 4)}, [f"t{len(ops)}"])


def test_counts_loadables_and_crossings() -> None:
    placement = check(chain("Relu", "Gpu", "Relu", "Sigmoid", "Gpu"), ORIN, "10.3")

    assert [layer.loadable for layer in placement.layers] == [0, None, 1, 1, None]
    assert placement.crossings == ("t1", "t2", "t4")
    assert placement.verdict == "partial"
    assert placement.layers_share == 3 / 5


def test_the_seventeenth_loadable_goes_to_the_gpu() -> None:
    placement = check(chain(*["Relu", "Gpu"] * 17), ORIN, "10.3")

    assert len(placement.loadables) == 16
    assert "room for 16" in placement.layers[32].reason
    assert len(check(chain("Relu", "Gpu", "Relu"), ORIN, "10.3", loadables_free=1).loadables) == 1


def test_memory_pools_are_told() -> None:
    nodes = [node("Relu", "x", "a"), node("Sigmoid", "a", "b"), node("Relu", "b", "y")]
    placement = check(graph_of(nodes, {"x": (8, 64, 1024, 1024)}, ["y"]), ORIN, "10.3")

    assert "over the DLA's 1 GiB" in placement.notes[0]
    assert placement.loadables[0].tensors_bytes == 2 * 8 * 64 * 1024 * 1024 * 2


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_person_raw_head_is_whole_on_the_dla(precision: str) -> None:
    graph = Graph.of(onnx_file.load(PERSON / "person_raw_head.onnx"))
    placement = check(graph, ORIN, "10.3", precision)

    assert placement.verdict == "full"
    assert placement.conv_flops_share == 1.0
    assert len(placement.loadables) <= 2
    assert "decode" in placement.notes[0]
    assert "GPU" in placement.notes[0]


def test_person_keeps_its_decode_on_the_gpu_with_reasons() -> None:
    placement = check(Graph.of(onnx_file.load(PERSON / "person.onnx")), ORIN, "10.3")

    assert placement.conv_flops_share == 1.0
    assert placement.flops_share > 0.999
    assert {layer.op for layer in placement.gpu_compute} <= {
        "Concat",
        "Sigmoid",
        "Mul",
        "Split",
        "Sub",
        "Add",
    }
    assert all(layer.reason and layer.fix for layer in placement.on("gpu"))
    assert len(placement.crossings) == 6


def test_no_dla_says_so_for_every_layer() -> None:
    graph = Graph.of(onnx_file.load(PERSON / "person_raw_head.onnx"))
    placement = check(graph, "orin-nano-8gb", "10.13")

    assert placement.verdict == "no-dla"
    assert placement.flops_share == 0.0
    assert {layer.device for layer in placement.layers} == {"gpu", "folded"}
    assert "has no DLA" in placement.reason


def test_unknown_target_and_version() -> None:
    with pytest.raises(ConfigError, match="unknown target"):
        check(one("Relu"), "nano")
    with pytest.raises(ConfigError, match="no TensorRT version"):
        check(one("Relu"), ORIN, "ten")


def test_every_rule_names_a_source_a_fix_and_a_rewrite_that_exist() -> None:
    data = rules()

    for rule in (*data.rules, data.unknown):
        assert rule.source in data.sources
        assert rule.fix in data.fixes
        assert all(limit.fix in data.fixes for limit in rule.limits)
    known = {*NAMES, "head_split", ""}
    assert {fix.rewrite for fix in data.fixes.values()} <= known


def test_the_report_is_json_and_html() -> None:
    placement = check(Graph.of(onnx_file.load(PERSON / "person.onnx")), ORIN, "10.3")
    report = json.loads(json.dumps(dla_report.to_dict(placement, "person.onnx")))
    page = dla_report.to_html(placement, "<person>")

    assert report["verdict"] == "partial"
    assert report["dla"]["loadables"] == 1
    assert {"name", "op", "device", "reason", "fix"} <= set(report["layers"][0])
    assert "&lt;person&gt;" in page
    assert "<person>" not in page
    assert page.count("<rect") > 90
    assert "http" not in page.replace("https://docs.nvidia.com", "").replace(
        "https://github.com", ""
    )
    assert "<script" not in page


def test_functions_and_unknown_domains_are_no_traceback() -> None:
    made = model([node("Relu", "x", "t"), node("Relu", "t", "y")], {"x": (1, 8, 4, 4)}, ["y"])
    made.graph.node[1].domain = "com.example"
    made.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    del made.graph.output[0].type.tensor_type.shape.dim[:]
    layer = check(Graph.of(made), ORIN).layers[1]

    assert (layer.op, layer.device) == ("com.example::Relu", "gpu")
