from __future__ import annotations

from pathlib import Path

import pytest

from edgetrt.cli.up import IDLE_S, Idle
from tests.cli.command import PERSON, edgetrt

slow = pytest.mark.slow  # three processes each


def test_a_runtime_without_anything_to_run_comes_back_with_a_release() -> None:
    idle = Idle()
    assert not idle.is_over("", 5.0)
    assert not idle.is_over("", 5.0 + IDLE_S - 1)
    assert idle.is_over("a", 5.0 + IDLE_S - 1)
    assert not idle.is_over("a", 100.0)
    assert idle.is_over("a", 100.0 + IDLE_S)


def device(folder: Path, broker: str = "{port: 9}", pipeline: str = "") -> Path:
    (folder / "pipelines").mkdir()
    if pipeline:
        (folder / "pipelines" / "scene.yaml").write_text(pipeline)
    path = folder / "agent.yaml"
    path.write_text(f"device: test\nbroker: {broker}\npipelines: [pipelines]\n")
    return path


SCENE = f"name: scene\nmodel: {PERSON}\nsource: synthetic:64x64?frames=3\nbackend: onnxruntime\n"


@slow
def test_it_is_over_when_every_pipeline_is(tmp_path: Path) -> None:
    config = device(tmp_path, pipeline=f"{SCENE}sinks: [jsonl:{tmp_path}/results.jsonl]\n")
    done = edgetrt("up", "--config", config)
    assert done.code == 0, done.err
    assert "Ctrl-C" in done.err
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 3


@slow
@pytest.mark.parametrize(
    ("broker", "pipeline", "code", "words"),
    [
        ("{port: 9, password_file: none}", f"{SCENE}rate_hz: 0.1\n", 78, "password_file"),
        ("{port: 9}", SCENE.replace("source", "sorce"), 78, "Did you mean `source`?"),
        ("{port: 9}", SCENE.replace("person.onnx", "none.onnx"), 1, "none.onnx: no such file"),
        ("{prt: 9}", SCENE, 78, "Did you mean `port`?"),
    ],
)
def test_a_mistake_that_no_restart_mends_is_told_once(
    tmp_path: Path, broker: str, pipeline: str, code: int, words: str
) -> None:
    done = edgetrt("up", "--config", device(tmp_path, broker, pipeline))
    assert done.code == code, done.err
    assert done.err.count(words) == 1
    assert "starting it again" not in done.err
    assert "Traceback" not in done.err


@slow
def test_a_device_without_pipelines_says_so(tmp_path: Path) -> None:
    done = edgetrt("up", "--config", device(tmp_path))
    assert done.code == 0
    assert "no pipeline" in done.err


@slow
def test_debug_and_verbose_reach_the_children(tmp_path: Path) -> None:
    config = device(tmp_path, pipeline=SCENE.replace("person.onnx", "none.onnx"))
    assert "INFO" not in edgetrt("up", "--config", config).err
    told = edgetrt("--verbose", "up", "--config", config).err
    assert "INFO" in told
    assert "DEBUG" not in told
