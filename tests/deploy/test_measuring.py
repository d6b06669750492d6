"""`bench` and `verify` of a file and of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgetrt.deploy import measuring
from edgetrt.deploy.deployment import run
from edgetrt.deploy.request import Request
from edgetrt.errors import ConfigError, ModelError
from tests.deploying import detector, machine, pictures


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with machine(tmp_path_factory.mktemp("m")) as folder:
        detector(folder / "tiny.onnx")
        pictures(folder / "frames")
        yield folder


def test_a_file_is_measured_alone_and_in_the_loop(here: Path) -> None:
    found = measuring.bench(here / "tiny.onnx", str(here / "frames"), 0.1, "onnxruntime", 1)
    assert (found.name, found.backend) == ("tiny", "onnxruntime")
    assert found.engine.runs > 1
    assert found.engine.latency_ms.min > 0
    assert set(found.stages_ms) == {"read", "preprocess", "infer", "postprocess", "publish"}
    assert all(p50 <= p99 for p50, p99 in found.stages_ms.values())
    alone = measuring.bench(here / "tiny.onnx", None, 0.05, "onnxruntime", 1)
    assert (alone.stages_ms, alone.fps) == ({}, None)


def test_a_pipeline_is_judged_as_it_was_deployed(here: Path) -> None:
    request = Request(
        here / "tiny.onnx",
        calib=str(here / "frames"),
        precision="int8",
        backend="onnxruntime",
        bench_s=0.02,
    )
    run(request, lambda step, what="", fraction=None: None)
    verdict = measuring.verify(Path("tiny"), str(here / "frames"), 32, "auto")
    assert verdict.measure == "ap"
    assert verdict.passed
    assert verdict.value < 1.0 or verdict.loss == 0.0
    with pytest.raises(ConfigError, match="no frames to judge by"):
        measuring.verify(Path("tiny"), None, 32, "auto")


def test_a_network_that_is_not_there_is_told_before_frames_are_asked_for(here: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        measuring.verify(here / "nosuch.onnx", None, 4, "auto")


def test_fp32_agrees_with_itself(here: Path) -> None:
    verdict = measuring.verify(here / "tiny.onnx", str(here / "frames"), 4, "onnxruntime")
    assert verdict.value == pytest.approx(1.0)


def test_neither_pipeline_nor_file(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither a deployed pipeline nor an \.onnx") as caught:
        measuring.bench(Path("nothing"), None, 0.1, "auto", 0)
    assert "nothing yet" in caught.value.hint
    with pytest.raises(ConfigError, match="not a name"):
        measuring.bench(Path("../../nothing"), None, 0.1, "auto", 0)
