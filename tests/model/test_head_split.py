"""Where a decoded detector is cut, and that the two parts are the whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx

from edgetrt.model import onnx_file
from edgetrt.model.dla import check
from edgetrt.model.graph import Graph, tensor_spec
from edgetrt.model.head_split import METADATA_KEY, find_split, marked, split_parts
from edgetrt.model.reference import Reference
from tests.model.onnx_graphs import conv, graph_of, node, save, weights

PERSON = Path(__file__).parents[2] / "engines" / "person"
ORIN = "orin-nx-16gb"


def test_person_is_cut_at_its_six_heads() -> None:
    graph = Graph.of(onnx_file.load(PERSON / "person.onnx"))
    split = find_split(graph, check(graph, ORIN, "10.3"))

    assert split is not None
    assert len(split.cut) == 6
    assert split.tail_share < 0.001
    assert "three dimensions" in split.reason or "3 dimensions" in split.reason
    assert len(split.gpu_layers) == 19
    assert all(name in str(split) for name in split.cut)


def test_the_parts_are_the_whole(tmp_path: Path) -> None:
    graph = Graph.of(onnx_file.load(PERSON / "person.onnx"))
    split = find_split(graph, check(graph, ORIN, "10.3"))
    assert split is not None
    backbone, decode = split_parts(graph, split)

    assert check(backbone, ORIN, "10.3").verdict == "full"
    assert [tensor_spec(value).name for value in decode.inputs] == list(split.cut)
    frame = np.random.default_rng(1).random((1, 3, 384, 512), np.float32)
    whole = Reference(PERSON / "person.onnx")({"images": frame})
    heads = Reference(save(backbone.to_model(), tmp_path, "b.onnx"))({"images": frame})
    joined = Reference(save(decode.to_model(), tmp_path, "d.onnx"))(heads)
    np.testing.assert_allclose(joined["output0"], whole["output0"], rtol=1e-4, atol=1e-3)


def test_layers_of_the_decode_that_would_go_back_to_the_dla_are_pinned() -> None:
    """A Softmax in four dimensions behind a GPU layer would be a loadable of its own."""
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node("Erf", "c", "e"),
        node("Softmax", "e", "s", axis=1),
        node("Erf", "s", "y"),
    ]
    graph = graph_of(nodes, {"x": (1, 64, 8, 8)}, ["y"], {"w": weights(64, 64, 3, 3)})
    placement = check(graph, ORIN, "10.3")
    split = find_split(graph, placement)

    assert len(placement.loadables) == 2
    assert split is not None
    assert split.cut == ("c",)
    assert split.lifted == 1
    assert split.gpu_layers == ("Erf:e", "Softmax:s", "Erf:y")


def test_a_fallback_in_the_backbone_is_no_head() -> None:
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node("Erf", "c", "e"),
        node("Conv", "e w", "y", pads=[1, 1, 1, 1]),
    ]
    graph = graph_of(nodes, {"x": (1, 64, 8, 8)}, ["y"], {"w": weights(64, 64, 3, 3)})

    assert find_split(graph, check(graph, ORIN, "10.3")) is None


def test_a_network_that_fits_is_not_cut() -> None:
    graph = conv()

    assert find_split(graph, check(graph, ORIN, "10.3")) is None


def test_a_reshape_at_the_end_is_no_decode() -> None:
    nodes = [node("Relu", "x", "r"), node("Flatten", "r", "y")]
    graph = graph_of(nodes, {"x": (1, 8, 4, 4)}, ["y"])

    assert find_split(graph, check(graph, ORIN, "10.3")) is None


def test_the_cut_is_in_the_metadata() -> None:
    graph = Graph.of(onnx_file.load(PERSON / "person.onnx"))
    split = find_split(graph, check(graph, ORIN, "10.3"))
    assert split is not None
    made = marked(marked(graph, split), split).to_model()
    values = [item.value for item in made.metadata_props if item.key == METADATA_KEY]

    assert len(values) == 1
    assert json.loads(values[0]) == {"cut": list(split.cut), "gpu_layers": list(split.gpu_layers)}
    assert METADATA_KEY not in {item.key for item in graph.shell.metadata_props}
    onnx.checker.check_model(made)
