from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetrt.backends.tensorrt_progress import PhaseTree
from edgetrt.backends.tensorrt_report import (
    compare,
    loadables,
    merge,
    on_gpu,
    parse_inspector,
)
from edgetrt.types import BuiltLayer

TENSORRT_10 = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to {ForeignNode[conv1...relu2]}",
            "LayerType": "Reformat",
            "Inputs": [
                {"Name": "x", "Dimensions": [1, 3, 8, 8], "Format/Datatype": "Row major FP32"}
            ],
        },
        {
            "Name": "{ForeignNode[conv1...relu2]}",
            "LayerType": "DLA",
            "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]\x1e[ONNX Layer: relu2]",
        },
        {"Name": "softmax", "LayerType": "SoftMaxV2", "Metadata": "[ONNX Layer: softmax]"},
        {"Name": "{ForeignNode[a...b]}", "LayerType": "Myelin"},
    ],
    "Bindings": ["x", "y"],
}
TENSORRT_11 = {
    "Layers": [
        {
            "Name": "{ForeignNode[conv1...relu2]}",
            "LayerType": "DLA",
            "Outputs": [{"Name": "t", "Format": "CHW16", "Datatype": "Half"}],
        }
    ],
    "I/O Tensors": [{"Name": "x"}],
}


def test_layers_of_10() -> None:
    layers = parse_inspector(json.dumps(TENSORRT_10))
    assert [(layer.device, layer.kind) for layer in layers] == [
        ("GPU", "REFORMAT"),
        ("DLA", "LOADABLE"),
        ("GPU", "SOFTMAXV2"),
        ("GPU", "MYELIN"),
    ]
    assert layers[1].nodes == ("conv1", "relu1", "relu2")
    assert loadables(layers) == 1
    assert [layer.name for layer in on_gpu(layers)] == ["softmax", "{ForeignNode[a...b]}"]


def test_layers_of_11() -> None:
    (layer,) = parse_inspector(json.dumps(TENSORRT_11))
    assert (layer.device, layer.kind) == ("DLA", "LOADABLE")


def test_names_only_and_the_log_knows_the_loadables() -> None:
    text = json.dumps({"Layers": ["{ForeignNode[a...b]}", "softmax"]})
    layers = parse_inspector(text, {"{ForeignNode[a...b]}"})
    assert [layer.device for layer in layers] == ["DLA", "GPU"]


@pytest.mark.parametrize(
    "text", ["", "null", "5", "{", '{"Layers": 5}', '{"Layers": [5, {"Name": 1}, {}]}', "[" * 9999]
)
def test_what_cannot_be_read_is_no_layer(text: str) -> None:
    assert parse_inspector(text) == ()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["Name", "LayerType", "Metadata"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.fixed_dictionaries({"Layers": json_values}))
def test_any_json_is_read_or_left(data: dict[str, Any]) -> None:
    for layer in parse_inspector(json.dumps(data)):
        assert layer.device in {"DLA", "GPU"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Reformatting CopyNode for Output Tensor 0", "UNKNOWN"),
        ("x to nvm", "UNKNOWN"),
        ("y from nvm", "UNKNOWN"),
        ("y copy finish", "UNKNOWN"),
        ("reshape_after_/linear/Gemm", "SHUFFLE"),
        ("c", "CONSTANT"),
    ],
)
def test_moving_data_is_no_computing(name: str, kind: str) -> None:
    assert on_gpu([BuiltLayer(name, "GPU", kind)]) == ()


def test_log_and_engine_contradict_each_other() -> None:
    inspected = (BuiltLayer("a", "GPU", "CONVOLUTION"),)
    logged = (BuiltLayer("a", "DLA", "LOADABLE"), BuiltLayer("b", "DLA", "LOADABLE"))
    layers, warnings = merge(inspected, logged)
    assert layers == inspected
    assert warnings == (
        "a: the log says DLA, the engine GPU",
        "b: a loadable in the log, not in the engine",
    )
    assert merge((), logged) == (logged, ())
    assert merge(inspected, inspected) == (inspected, ())


def test_static_placement_is_scored() -> None:
    expected = {"conv1": "DLA", "relu1": "DLA", "pool": "DLA", "fc": "GPU", "gone": "GPU"}
    layers = [
        BuiltLayer("{ForeignNode[conv1...relu1]}", "DLA", "LOADABLE"),
        BuiltLayer("pool + fc", "GPU", "POOLING"),
    ]
    found = compare(expected, layers)  # type: ignore[arg-type]
    assert (found.agreed, found.compared) == (3, 4)
    assert found.differing == (("pool", "DLA", "GPU"),)
    assert found.missing == ("gone",)


def test_a_range_claims_only_what_nothing_else_names() -> None:
    expected = {"a": "DLA", "b": "GPU", "c": "DLA"}
    layers = [
        BuiltLayer("{ForeignNode[a...c]}", "DLA", "LOADABLE"),
        BuiltLayer("PWN(b)", "GPU", "POINTWISE"),
    ]
    assert compare(expected, layers).agreed == 3  # type: ignore[arg-type]


def test_fraction_of_nested_phases() -> None:
    tree = PhaseTree()
    tree.start("build", None, 4)
    assert tree.step("build", 0) == 0.25
    tree.start("tactics", "build", 10)
    assert tree.step("tactics", 4) == pytest.approx(0.375)
    tree.finish("tactics")
    assert tree.step("build", 1) == 0.5
    assert tree.finish("build") == 1.0


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.sampled_from(["start", "step", "finish"]), st.integers(0, 9)
        )
    )
)
def test_fraction_never_goes_back_and_stays_within_one(
    calls: list[tuple[str, str, int]],
) -> None:
    tree, last = PhaseTree(), 0.0
    parents = {"a": None, "b": "a", "c": "b"}
    for name, call, number in calls:
        if call == "start":
            tree.start(name, parents[name], number)
            continue
        now = tree.step(name, number) if call == "step" else tree.finish(name)
        assert last <= now <= 1.0
        last = now
