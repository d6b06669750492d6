"""Every rewrite: the same function, and the layer is lifted to the DLA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgetrt.errors import AccuracyError
from edgetrt.model import shapes as shape_inference
from edgetrt.model.dla import check
from edgetrt.model.graph import Graph, tensor_spec
from edgetrt.model.proof import prove
from edgetrt.model.rewrite import NAMES, Lifted, lift
from edgetrt.model.rewrites.edit import rewrite_nodes
from edgetrt.model.rewrites.pooling import global_pool, pooling_windows
from tests.model.onnx_graphs import conv, graph_of, node, one, weights

ORIN = "orin-nx-16gb"


def lifted(graph: Graph, trt: str = "10.3", off: tuple[str, ...] = ()) -> Lifted:
    found = lift(graph, ORIN, trt, off=off)
    if found.applied:
        prove(graph, found.graph, seed=3)
    return found


def unary(op: str, opset: int = 17, **attributes: object) -> Graph:
    return graph_of([node(op, "x", "y", **attributes)], {"x": (1, 8, 16, 16)}, ["y"], opset=opset)


def with_numbers(op: str, *values: float, shape: tuple[int, ...] = ()) -> Graph:
    names = [f"c{i}" for i in range(len(values))]
    constants = {
        name: np.full(shape, value, np.float32) for name, value in zip(names, values, strict=True)
    }
    return graph_of(
        [node(op, " ".join(["x", *names]), "y")], {"x": (1, 8, 16, 16)}, ["y"], constants
    )


def shuffled(op: str, shape: tuple[int, ...], **attributes: object) -> Graph:
    return graph_of([node(op, "x", "y", **attributes)], {"x": shape}, ["y"])


def strided_slice() -> Graph:
    values = {"s": [1, 0], "e": [16, 16], "a": [2, 3], "t": [2, 2]}
    constants = {name: np.asarray(value, np.int64) for name, value in values.items()}
    return graph_of([node("Slice", "x s e a t", "y")], {"x": (1, 3, 16, 16)}, ["y"], constants)


def gather() -> Graph:
    constants = {"i": np.asarray([3, -1, 0, 3], np.int64)}
    return graph_of([node("Gather", "x i", "y", axis=1)], {"x": (1, 8, 6, 6)}, ["y"], constants)


def resize_to_size(**attributes: object) -> Graph:
    constants = {"size": np.asarray([1, 8, 32, 48], np.int64)}
    nodes = [node("Resize", "x - - size", "y", **attributes)]
    return graph_of(nodes, {"x": (1, 8, 16, 16)}, ["y"], constants)


def padded_deconvolution() -> Graph:
    nodes = [
        node("ConvTranspose", "x w b", "y", strides=[2, 2], pads=[1, 1, 2, 0], kernel_shape=[4, 4])
    ]
    return graph_of(nodes, {"x": (1, 8, 9, 7)}, ["y"], {"w": weights(8, 4, 4, 4), "b": weights(4)})


def padded(*nodes: object, **constants: np.ndarray) -> Graph:  # type: ignore[type-arg]
    pads = np.asarray([0, 0, 1, 2, 0, 0, 0, 1], np.int64)
    return graph_of(list(nodes), {"x": (1, 8, 16, 16)}, ["y"], {"pads": pads, **constants})


LIFTS: dict[str, tuple[str, Callable[[], Graph]]] = {
    "hard sigmoid": ("activations", lambda: unary("HardSigmoid", alpha=0.3, beta=0.4)),
    "hard swish": ("activations", lambda: unary("HardSwish")),
    "mish": ("activations", lambda: unary("Mish", opset=18)),
    "gelu": ("activations", lambda: unary("Gelu", opset=20, approximate="tanh")),
    "negative": ("activations", lambda: unary("Neg")),
    "clip": ("activations", lambda: with_numbers("Clip", -0.5, 0.75)),
    "clip above": ("activations", lambda: with_numbers("Clip", 0.25)),
    "hard sigmoid before opset 11": ("activations", lambda: unary("HardSigmoid", opset=10)),
    "clip before opset 11": ("activations", lambda: unary("Clip", opset=10, min=-1.0, max=2.0)),
    "global average": ("global_pool", lambda: one("GlobalAveragePool", (1, 8, 16, 12))),
    "prime average": ("global_pool", lambda: one("GlobalAveragePool", (1, 8, 13, 26))),
    "mean": ("global_pool", lambda: one("ReduceMean", (1, 8, 7, 7), axes=[2, 3])),
    "spp": ("pooling_windows", lambda: one("MaxPool", kernel_shape=[13, 13], pads=[6] * 4)),
    "wide average": (
        "pooling_windows",
        lambda: one("AveragePool", kernel_shape=[9, 11], pads=[4, 5, 4, 5], count_include_pad=1),
    ),
    "depth to space": ("depth_space", lambda: shuffled("DepthToSpace", (1, 16, 4, 6), blocksize=2)),
    "depth to space crd": (
        "depth_space",
        lambda: shuffled("DepthToSpace", (1, 18, 4, 6), blocksize=3, mode="CRD"),
    ),
    "space to depth": ("depth_space", lambda: shuffled("SpaceToDepth", (1, 3, 8, 12), blocksize=2)),
    "strided slice": ("depth_space", strided_slice),
    "gather": ("gather_to_conv", gather),
    "size": (
        "resize_scales",
        lambda: resize_to_size(coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    ),
    "pytorch size": (
        "resize_scales",
        lambda: resize_to_size(mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    ),
    "deconvolution": ("deconv_padding", padded_deconvolution),
    "pad of a convolution": (
        "fold_pad",
        lambda: padded(
            node("Pad", "x pads", "p"),
            node("Conv", "p w", "y", auto_pad="SAME_LOWER", strides=[2, 2]),
            w=weights(4, 8, 5, 5),
        ),
    ),
    "pad of a maximum": (
        "fold_pad",
        lambda: padded(
            node("Relu", "x", "r"),
            node("Pad", "r pads", "p"),
            node("MaxPool", "p", "y", kernel_shape=[3, 3], strides=[2, 2]),
        ),
    ),
    "pad of an average": (
        "fold_pad",
        lambda: padded(
            node("Pad", "x pads", "p"), node("AveragePool", "p", "y", kernel_shape=[3, 3])
        ),
    ),
}


@pytest.mark.parametrize("name", LIFTS)
def test_lifts_and_computes_the_same(name: str) -> None:
    rewrite, make = LIFTS[name]
    graph = make()
    before = check(graph, ORIN, "10.3")
    found = lifted(graph)

    assert before.gpu_compute
    assert [step.rewrite for step in found.applied] == [rewrite]
    assert found.placement.verdict == "full"
    assert len(found.placement.loadables) == 1


@pytest.mark.parametrize("name", LIFTS)
def test_each_can_be_turned_off(name: str) -> None:
    rewrite, make = LIFTS[name]
    graph = make()
    found = lifted(graph, off=(rewrite,))

    assert found.graph is graph
    assert found.applied == ()


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 24, reason="this onnx knows no Swish")
def test_swish_in_pieces() -> None:
    """Compared with pieces written by hand: an older ONNX Runtime cannot run the operator itself."""
    found = lift(unary("Swish", opset=24, alpha=1.5), ORIN, "10.3")
    names = {"a": np.asarray(1.5, np.float32)}
    nodes = [node("Mul", "x a", "s"), node("Sigmoid", "s", "g"), node("Mul", "x g", "y")]
    expected = graph_of(nodes, {"x": (1, 8, 16, 16)}, ["y"], names)

    assert found.placement.verdict == "full"
    prove(expected, replace(found.graph, shell=expected.shell))


UNTOUCHED = {
    "erf gelu": lambda: unary("Gelu", opset=20),
    "fits": lambda: unary("Relu"),
    "pad below zero": lambda: padded(
        node("Pad", "x pads", "p"), node("MaxPool", "p", "y", kernel_shape=[3, 3])
    ),
    "pad read twice": lambda: padded(
        node("Pad", "x pads", "p"),
        node("Conv", "p w", "c", pads=[1, 1, 1, 1]),
        node("Add", "p c", "y"),
        w=weights(8, 8, 3, 3),
    ),
    "pad as wide as the window": lambda: padded(
        node("Pad", "x pads", "p"),
        node("Conv", "p w", "y", pads=[1, 1, 1, 1]),
        w=weights(4, 8, 3, 3),
    ),
    "reflected": lambda: padded(
        node("Pad", "x pads", "p", mode="reflect"), node("Conv", "p w", "y"), w=weights(4, 8, 3, 3)
    ),
    "ceil": lambda: one("MaxPool", kernel_shape=[9, 9], strides=[2, 2], ceil_mode=1),
    "excluded padding": lambda: one("AveragePool", kernel_shape=[9, 9], pads=[4] * 4),
    "gather of rows": lambda: graph_of(
        [node("Gather", "x i", "y", axis=2)],
        {"x": (1, 8, 6, 6)},
        ["y"],
        {"i": np.asarray([0, 2], np.int64)},
    ),
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_leaves_alone_what_it_cannot_improve(name: str) -> None:
    graph = UNTOUCHED[name]()

    assert lifted(graph).graph is graph


def test_division_and_powers_only_where_tensorrt_lacks_them() -> None:
    for graph in (with_numbers("Div", 4.0), with_numbers("Pow", 3.0)):
        assert lifted(graph, "8.5").placement.verdict == "full"
        assert lifted(graph, "10.3").applied == ()
    assert lifted(with_numbers("Pow", 0.5), "8.5").applied == ()


def test_mish_is_left_alone_where_division_is_missing() -> None:
    assert lifted(unary("Mish", opset=18), "8.6").applied == ()


def test_global_maximum_before_8_6_12() -> None:
    found = lifted(one("GlobalMaxPool", (1, 8, 13, 20)), "8.5")

    assert found.placement.verdict == "full"
    assert {item.op for item in found.graph.nodes} == {"MaxPool"}


def classifier(**attributes: object) -> Graph:
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("Flatten", "r", "f"),
        node("Gemm", "f g gb", "h", **attributes),
        node("Relu", "h", "hr"),
        node("Dropout", "hr", "hd"),
        node("MatMul", "hd m", "mm"),
        node("Add", "mm mb", "a"),
        node("Softmax", "a", "y", axis=-1),
    ]
    shape = (12, 4 * 3 * 5) if attributes.get("transB") else (4 * 3 * 5, 12)
    constants = {
        "w": weights(4, 3, 3, 3),
        "g": weights(*shape),
        "gb": weights(12),
        "m": weights(12, 7),
        "mb": weights(7),
    }
    return graph_of(nodes, {"x": (2, 3, 3, 5)}, ["y"], constants)


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}])
def test_a_classifier_ends_on_the_dla(attributes: dict[str, object]) -> None:
    found = lifted(classifier(**attributes))

    assert [step.rewrite for step in found.applied] == ["gemm_to_conv"]
    assert found.placement.verdict == "full"
    assert [layer.op for layer in found.placement.on("gpu")] == ["Flatten"]
    assert len(found.placement.loadables) == 1


def test_a_channel_shuffle_is_a_convolution() -> None:
    constants = {
        "w": weights(12, 12, 1, 1),
        "five": np.asarray([2, 3, 4, 5, 6], np.int64),
        "four": np.asarray([2, 12, 5, 6], np.int64),
    }
    nodes = [
        node("Conv", "x w", "c"),
        node("Reshape", "c five", "r"),
        node("Transpose", "r", "t", perm=[0, 2, 1, 3, 4]),
        node("Reshape", "t four", "s"),
        node("Conv", "s w", "y"),
    ]
    graph = graph_of(nodes, {"x": (2, 12, 5, 6)}, ["y"], constants)
    found = lifted(graph)

    assert len(check(graph, ORIN, "10.3").loadables) == 2
    assert [item.op for item in found.graph.nodes] == ["Conv", "Conv", "Conv"]
    assert len(found.placement.loadables) == 1


def test_batch_normalization_goes_into_its_convolution() -> None:
    constants = {"w": weights(6, 8, 3, 3), "s": weights(6), "b": weights(6), "m": weights(6)}
    constants["v"] = np.abs(weights(6)) + 0.5
    nodes = [
        node("Conv", "x w", "c"),
        node("BatchNormalization", "c s b m v", "n"),
        node("Relu", "n", "y"),
    ]
    found = lifted(graph_of(nodes, {"x": (1, 8, 8, 8)}, ["y"], constants))

    assert [item.op for item in found.graph.nodes] == ["Conv", "Relu"]
    assert set(found.graph.weights).isdisjoint(constants)
    assert "fold_batchnorm" in str(found.applied[0])


def test_a_shared_convolution_keeps_its_normalization() -> None:
    constants = {"w": weights(8, 8, 1, 1), **{name: np.ones(8, np.float32) for name in "sbmv"}}
    nodes = [
        node("Conv", "x w", "c"),
        node("BatchNormalization", "c s b m v", "n"),
        node("Add", "c n", "y"),
    ]

    assert lifted(graph_of(nodes, {"x": (1, 8, 8, 8)}, ["y"], constants)).applied == ()


def test_open_dimensions_are_fixed_from_the_metadata() -> None:
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "y")]
    graph = graph_of(
        nodes,
        {"x": ("N", 3, "H", "W")},
        ["y"],
        {"w": weights(4, 3, 3, 3)},
        metadata={"imgsz": "[64, 96]"},
    )
    found = lift(graph, ORIN, "10.3", batch=2)

    assert tensor_spec(found.graph.inputs[0]).shape == (2, 3, 64, 96)
    assert found.applied[0].rewrite == "static_shapes"
    assert found.placement.verdict == "full"
    prove(graph_with_input(graph, found.graph), found.graph)


def graph_with_input(graph: Graph, fixed: Graph) -> Graph:
    """The network before, fed with the shapes after."""
    return replace(graph, inputs=fixed.inputs)


def test_open_dimensions_that_nothing_says_stay_open() -> None:
    found = lift(one("Relu", (1, 3, "H", "W")), ORIN, "10.3")

    assert found.applied == ()
    assert "dynamic" in found.placement.layers[0].reason
    sized = lift(one("Relu", (1, 3, "H", "W")), ORIN, "10.3", sizes={"x": (1, 3, 8, 8)})
    assert sized.placement.verdict == "full"


def test_no_dla_is_no_reason_to_rewrite() -> None:
    found = lift(unary("HardSwish"), "orin-nano-8gb", "10.3")

    assert found.applied == ()
    assert found.placement.verdict == "no-dla"


def test_a_wrong_rewrite_is_caught() -> None:
    with pytest.raises(AccuracyError, match="differs at 'y'"):
        prove(unary("HardSwish"), unary("HardSigmoid"))
    with pytest.raises(AccuracyError, match="expected"):
        prove(one("MaxPool", kernel_shape=[2, 2]), one("MaxPool", kernel_shape=[3, 3]))


def test_names_are_not_taken_twice() -> None:
    nodes = [node("HardSwish", "x", "t"), node("HardSwish", "t", "y")]
    found = lifted(graph_of(nodes, {"x": (1, 8, 4, 4)}, ["y"]))
    names = [name for item in found.graph.nodes for name in item.outputs]

    assert len(set(names)) == len(names)
    assert len({item.name for item in found.graph.nodes}) == len(found.graph.nodes)


def test_weights_are_shared_with_the_network_before() -> None:
    nodes = [node("Conv", "x w", "c"), node("HardSwish", "c", "y")]
    graph = graph_of(nodes, {"x": (1, 8, 8, 8)}, ["y"], {"w": weights(8, 8, 3, 3)})

    assert lifted(graph).graph.weights["w"] is graph.weights["w"]


def test_every_rewrite_has_a_case_here() -> None:
    tried = {rewrite for rewrite, _ in LIFTS.values()}

    assert set(NAMES) - tried == {
        "static_shapes",
        "gemm_to_conv",
        "fold_batchnorm",
        "channel_shuffle",
    }


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 17), st.integers(9, 17)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 8)] * 4),
)
def test_any_wide_maximum_is_a_chain(
    kernel: tuple[int, int], stride: tuple[int, int], pads: tuple[int, int, int, int]
) -> None:
    assume(all(pad < k for pad, k in zip(pads, kernel * 2, strict=True)))
    graph = one("MaxPool", (1, 2, 20, 20), kernel_shape=kernel, strides=stride, pads=pads)
    wanted = frozenset(graph.nodes)
    changed, _ = rewrite_nodes(graph, shape_inference.infer(graph), wanted, pooling_windows)

    assert max(max(item.ints("kernel_shape", ())) for item in changed.nodes) <= 8
    assert prove(graph, changed, runs=1).max_abs == 0.0


@settings(max_examples=15, deadline=None)
@given(size=st.tuples(st.integers(2, 40), st.integers(2, 40)))
def test_any_global_average_is_a_chain(size: tuple[int, int]) -> None:
    graph = one("GlobalAveragePool", (1, 2, *size))
    changed, done = rewrite_nodes(
        graph, shape_inference.infer(graph), frozenset(graph.nodes), global_pool
    )

    prove(graph, changed, runs=1)
    if done:
        assert all(item.op in ("AveragePool", "Conv") for item in changed.nodes)
    else:
        assert any(side > 32 for side in size)


def test_convolutions_alone_are_left_alone() -> None:
    graph = conv()

    assert lifted(graph).graph is graph
