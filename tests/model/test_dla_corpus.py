"""The models of ONNX's own backend tests: whatever they hold, the answer is a report."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import onnx
import pytest

from edgetrt.errors import EdgetrtError
from edgetrt.model import onnx_file
from edgetrt.model.dla import check
from edgetrt.model.graph import Graph
from edgetrt.model.inspect import inspect
from tests.model.onnx_graphs import graph_of, node

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
FILES = sorted(DATA.rglob("*.onnx"))
VERDICTS = {"full", "partial", "none", "no-dla"}


def _check_file(path: Path) -> str:
    try:
        info = inspect(path)
        graph = Graph.of(onnx_file.load(path))
    except EdgetrtError as error:
        assert error.hint
        return "refused"
    placement = check(graph, "orin-nx-16gb", "10.3")
    assert len(placement.layers) == sum(info.operators.values())
    assert all(layer.device != "gpu" or layer.reason for layer in placement.layers)
    return placement.verdict


@pytest.mark.skipif(not FILES, reason="this onnx comes without its backend tests")
def test_a_sample_of_the_files() -> None:
    verdicts = Counter(_check_file(path) for path in FILES[::12])

    assert set(verdicts) <= VERDICTS
    assert verdicts.total() == len(FILES[::12])


@pytest.mark.slow
@pytest.mark.skipif(not FILES, reason="this onnx comes without its backend tests")
def test_all_files() -> None:
    verdicts = Counter(map(_check_file, FILES))

    assert set(verdicts) <= VERDICTS
    assert verdicts["full"] >= 10
    assert verdicts["partial"] >= 5


@pytest.mark.slow
def test_all_node_models() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, while onnx makes the expected values
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    models = [case.model for case in cases if case.model is not None]
    verdicts = Counter(check(Graph.of(made), "orin-nx-16gb", "10.3").verdict for made in models)
    again = Counter(
        check(Graph.of(made), "agx-orin-64gb", "11.4", "int8").verdict for made in models
    )

    assert len(models) > 1000
    assert set(verdicts) | set(again) <= VERDICTS
    assert verdicts["full"] > 10


@pytest.mark.timeout(30)
def test_a_graph_of_a_thousand_nodes() -> None:
    """Its time is measured by the bench; here, that it does not grow with the square."""
    ops = ("Relu", "Sigmoid", "Erf")
    nodes = [node(ops[i % 3 if i % 97 == 0 else 0], f"t{i}", f"t{i + 1}") for i in range(1000)]
    placement = check(graph_of(nodes, {"t0": (1, 8, 8, 8)}, ["t1000"]), "orin-nx-16gb", "10.3")

    assert len(placement.layers) == 1000
    assert len(placement.loadables) == 4
