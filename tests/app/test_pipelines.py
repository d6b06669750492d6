from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgetrt import app
from edgetrt.app.pipelines import STDOUT, open_sinks, uses_stdout
from edgetrt.app.serving import pipelines_of
from edgetrt.config import DeviceConfig, PipelineConfig
from edgetrt.errors import ConfigError, ModelError, SinkError
from edgetrt.runtime.pool import PipelinePool
from edgetrt.sinks.jsonl import JsonlSink
from edgetrt.sources import uri as uris
from edgetrt.types import RawOutput
from tests.runtime.test_service import wait_for
from tests.sinks.results import make_result


def test_a_sink_is_written_with_its_whole_path() -> None:
    assert app.whole_sink("video:out/a.mp4", Path("/data")) == "video:/data/out/a.mp4"
    assert app.whole_sink("jsonl:/tmp/a.jsonl", Path("/data")) == "jsonl:/tmp/a.jsonl"
    assert app.whole_sink("image:~/a.jpg", Path("/data")) == f"image:{Path.home()}/a.jpg"
    assert app.whole_sink(STDOUT, Path("/data")) == STDOUT


@pytest.mark.parametrize("text", ["", "jsonl", "jsonl:", "carrier-pigeon:x", "a.mp4"])
def test_what_is_no_sink_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected jsonl:PATH"):
        app.whole_sink(text, Path())


def test_two_sinks_on_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.mp4': is there 2 times"):
        open_sinks(["video:a.mp4", "image:a.jpg", f"video:{tmp_path}/a.mp4"], tmp_path, live=False)
    assert not list(tmp_path.iterdir())


def test_sinks_open_by_their_scheme(tmp_path: Path) -> None:
    (sink,) = open_sinks(["jsonl:new/a.jsonl"], tmp_path, live=False)
    assert isinstance(sink, JsonlSink)
    sink.close()
    assert (tmp_path / "new" / "a.jsonl").exists()


def test_a_file_takes_larger_tensors_when_it_is_asked_to(tmp_path: Path) -> None:
    tensors = {"small": np.zeros(4), "large": np.zeros(5000)}
    result = replace(make_result(0), output=RawOutput(tensors))
    for name in ("a.jsonl", "a.jsonl?values=5000"):
        (sink,) = open_sinks([f"jsonl:{name}"], tmp_path, live=False)
        assert sink.put(result)
        sink.close()
    plain, whole = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert plain["tensors"]["large"].get("data") is None
    assert len(plain["tensors"]["small"]["data"]) == 4
    assert len(whole["tensors"]["large"]["data"]) == 5000


@pytest.mark.parametrize(
    ("text", "live"),
    [
        ("rtsp://camera/1", True),
        ("rtsps://camera/1", True),
        ("clip.mp4", False),
        ("clip.mp4?realtime=1", True),
        ("clip.mp4?realtime=0", False),
        ("clip.mp4?rate_hz=5", True),
        ("synthetic:64x64", False),
        ("synthetic:64x64?rate_hz=5", True),
        ("dir:frames?loop=1", False),
    ],
)
def test_whether_a_source_will_be_live_is_known_beforehand(text: str, live: bool) -> None:
    assert uris.parse(text).live is live


def test_a_supervisor_tells_mistakes_before_anything_runs(tmp_path: Path) -> None:
    good = PipelineConfig(name="a", model="none.onnx", source="synthetic:64x64")
    with pytest.raises(ConfigError, match="unknown scheme"):
        app.supervisor(PipelineConfig(name="a", model="m.onnx", source="gopher:x"), tmp_path)
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(SinkError):
        app.supervisor(
            PipelineConfig(name="a", model="m.onnx", source="x", sinks=(f"jsonl:{blocked}/a",)),
            tmp_path,
        )
    with pytest.raises(ModelError, match=r"none\.onnx: no such file"):
        app.supervisor(good, tmp_path, deployed=False).run_once(threading.Event())


def a_file(folder: Path, name: str, sinks: str) -> None:
    text = f"name: {name}\nmodel: none.onnx\nsource: synthetic:64x64\nsinks: [jsonl:good.jsonl, {sinks}]\n"
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("sink", "error"),
    [
        ("foo:x", r"bad\.yaml:4: sinks\[1\]: sink 'foo:x': expected jsonl:PATH"),
        ("jsonl:blocked/a", r"bad\.yaml:4: sinks\[1\]: .*blocked/a: cannot be written"),
    ],
)
def test_a_bad_sink_fails_its_own_pipeline_and_is_told_with_file_line_and_key(
    tmp_path: Path, sink: str, error: str
) -> None:
    (tmp_path / "blocked").touch()
    a_file(tmp_path, "bad", sink)
    a_file(tmp_path, "good", "jsonl:other.jsonl")
    found = pipelines_of(DeviceConfig(pipelines=(".",)), tmp_path / "agent.yaml")
    pool = PipelinePool()
    pool.begin({name: app.job(one) for name, one in found.items()})
    wait_for(lambda: not pool.working())
    assert not pool.close(), "both have no network"

    said = {health.pipeline: health for health in pool.health()}
    assert said["bad"].state == said["good"].state == "failed"
    assert re.search(error, said["bad"].error)
    assert said["good"].error.endswith("none.onnx: no such file"), "it came as far as its network"


def test_standard_output_takes_larger_tensors_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert uses_stdout(["video:a.mp4", "jsonl:-?values=5000"])
    assert not uses_stdout(["jsonl:a.jsonl"])
    (sink,) = open_sinks(["jsonl:-?values=5000"], tmp_path, live=False)
    assert sink.put(replace(make_result(0), output=RawOutput({"large": np.zeros(5000)})))
    sink.close()
    assert len(json.loads(capfdbinary.readouterr().out)["tensors"]["large"]["data"]) == 5000
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_one_file_however_much_it_takes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 times"):
        open_sinks(["jsonl:a.jsonl", "jsonl:a.jsonl?values=9"], tmp_path, live=False)
