from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.command import PERSON, edgetrt

SCENE = "synthetic:320x240?objects=3&seed=1"


def test_a_network_needs_nothing_but_a_source(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    done = edgetrt(
        "run", PERSON, "--source", SCENE, "--frames", 6, "--sink", f"jsonl:{results}", "--json"
    )
    assert done.code == 0, done.err
    report = done.json()
    assert report["frames"] == report["read"] == 6
    assert report["dropped"] == report["refused"] == 0
    assert report["fps"] > 0
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    assert set(report["stages_ms"]) == {"read", "preprocess", "infer", "postprocess", "publish"}
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(6))
    assert lines[0]["size"] == [320, 240]
    assert lines[0]["engine"] == report["engine"]


def test_a_pipeline_file_says_it_all(tmp_path: Path) -> None:
    (tmp_path / "street.yaml").write_text(
        f"name: street\nmodel: {PERSON}\nsource: {SCENE}&frames=4\nsinks: [jsonl:out/results.jsonl]\n"
        "backend: onnxruntime\ndepth: 1\ntask: {score: 0.5}\n"
    )
    (tmp_path / "out").mkdir()
    done = edgetrt("run", tmp_path / "street.yaml", cwd=Path("/"))
    assert done.code == 0, done.err
    assert "street on onnxruntime" in done.out
    assert "4 frames" in done.out
    assert len((tmp_path / "out/results.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing.onnx", "--source", SCENE], 65, "missing.onnx: no such file"),
        (["model.pt", "--source", SCENE], 78, "expected an ONNX file"),
        ([PERSON], 78, "no source"),
        ([PERSON, "--source", "gopher://x"], 78, "unknown scheme"),
        ([PERSON, "--source", "nothing.mp4"], 66, "nothing.mp4"),
        ([PERSON, "--source", SCENE, "--sink", "carrier-pigeon:x"], 78, "expected jsonl:PATH"),
        ([PERSON, "--source", SCENE, "--sink", "jsonl:/proc/none/x"], 73, "/proc/none/x"),
        ([PERSON, "--source", SCENE, "--backend", "tea"], 78, "one of auto, tensorrt"),
        (
            [PERSON, "--source", SCENE, "--sink", "video:a.mp4", "--sink", "video:./a.mp4"],
            78,
            "2 times",
        ),
        ([PERSON, "--source", SCENE, "--rate-hz", "inf"], 78, "--rate-hz"),
        ([PERSON, "--source", SCENE, "--rate-hz", "-3"], 78, "--rate-hz"),
        ([PERSON, "--source", SCENE, "--no-such-option"], 2, "No such option"),
    ],
)
def test_mistakes_are_told_in_words(
    tmp_path: Path, arguments: list[object], code: int, words: str
) -> None:
    done = edgetrt("run", *arguments, cwd=tmp_path)
    assert done.code == code, done.err
    assert words in done.err
    assert "Traceback" not in done.err
    assert not done.out


def test_a_file_that_is_no_network_is_told(tmp_path: Path) -> None:
    for name, content in (("empty", b""), ("cut", PERSON.read_bytes()[:5000]), ("text", b"<html>")):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        done = edgetrt("run", path, "--source", SCENE)
        assert done.code == 65, name
        assert str(path) in done.err
        assert "hint:" in done.err
        assert "Traceback" not in done.err


def test_a_file_that_is_no_pipeline_is_told_with_its_line(tmp_path: Path) -> None:
    for content, words in (("", "is empty"), ("- a\n", "expected keys"), ("name: a\n", "missing")):
        path = tmp_path / "pipeline.yaml"
        path.write_text(content)
        done = edgetrt("run", path)
        assert (done.code, done.out) == (78, "")
        assert f"{path}:1:" in done.err
        assert words in done.err


def test_results_on_standard_output_come_alone() -> None:
    done = edgetrt("run", PERSON, "--source", f"{SCENE}&frames=3", "--sink", "jsonl:-", "--json")
    assert done.code == 0, done.err
    assert [json.loads(line)["frame"] for line in done.out.splitlines()] == [0, 1, 2]
    assert json.loads(done.err)["frames"] == 3


def test_results_that_cannot_be_written_are_an_error_with_their_number() -> None:
    done = edgetrt("run", PERSON, "--source", f"{SCENE}&frames=3", "--sink", "jsonl:/dev/full")
    assert done.code == 74
    assert "3 results of 3 could not be written" in done.err
    assert "3 frames in" in done.out, "the report comes all the same"


def test_a_network_that_answers_nothing_is_told_and_fails(tmp_path: Path) -> None:
    model = tmp_path / "nan.onnx"
    onnx.save(never_a_number(), model)
    done = edgetrt("run", model, "--source", f"{SCENE}&frames=3", "--backend", "onnxruntime")
    assert done.code == 70
    assert "3 refused (the network's scores hold NaN or infinity)" in done.out
    assert "not one frame was answered" in done.err


def never_a_number() -> onnx.ModelProto:
    """A detector of 80 classes whose every answer is NaN."""
    answer = onnx.numpy_helper.from_array(np.full((1, 84, 100), np.nan, np.float32), "nan")
    value, float32 = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    nodes = [
        onnx.helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        onnx.helper.make_node("Add", ["mean", "nan"], ["y"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "never",
        [value("x", float32, [1, 3, 64, 96])],
        [value("y", float32, [1, 84, 100])],
        [answer],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.helper.set_model_props(model, {"task": "detect"})
    return model


def test_debug_shows_where_it_happened(tmp_path: Path) -> None:
    done = edgetrt("--debug", "run", tmp_path / "none.onnx", "--source", SCENE)
    assert done.code == 65
    assert "Traceback" in done.err


def test_version() -> None:
    from edgetrt import __version__

    assert edgetrt("--version").out == f"edgetrt {__version__}\n"


def test_doctor_knows_this_machine() -> None:
    done = edgetrt("doctor", "--broker", "127.0.0.1:9", "--json")
    report = done.json()
    findings = {finding["name"]: finding for finding in report["findings"]}
    assert findings["backend onnxruntime"]["state"] == "ok"
    assert findings["broker"]["state"] == "absent"
    assert "127.0.0.1:9" in findings["broker"]["value"]
    assert all(f["fix"] for f in report["findings"] if f["state"] != "ok")
    assert done.code == (0 if report["ok"] else 1)
