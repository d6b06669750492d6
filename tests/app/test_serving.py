from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetrt import app, wire
from edgetrt.app.serving import Serving, compose, pipelines_of
from edgetrt.asking import look_again
from edgetrt.config import DeviceConfig, PipelineConfig
from edgetrt.deploy import release_build
from edgetrt.deploy.rehearsal import try_out
from edgetrt.engine.active import Deployed, Record
from edgetrt.errors import ConfigError, UpdateError
from edgetrt.link import Receiver
from edgetrt.update import built
from edgetrt.update.layout import Layout
from tests import deploying, releases
from tests.cli.command import ROOT

HOME, RELEASED = Path("/etc/edgetrt/pipelines.d"), Path("/var/lib/edgetrt/update/releases/d")


def engine(name: str) -> Deployed:
    return Deployed(
        fingerprint=name, backend="onnxruntime", model="", precision="fp32", deployed_at=""
    )


def pipeline(name: str, source: str, rate_hz: float | None = None) -> PipelineConfig:
    return PipelineConfig(name=name, model="m.onnx", source=source, rate_hz=rate_hz)


def a_file(name: str) -> dict[str, Serving]:
    return {name: Serving(pipeline(name, "rtsp://file", 5.0), HOME)}


def a_record(name: str, source: str = "rtsp://record") -> Record:
    return Record(pipeline=pipeline(name, source), current=engine("deployed"))


def a_part(name: str, source: str = "rtsp://release") -> Serving:
    return Serving(pipeline(name, source), RELEASED, engine("released"), "d")


def test_each_layer_goes_over_the_one_below() -> None:
    file, record, part = a_file("a"), a_record("a"), a_part("a")

    assert compose(file, [], [])["a"] == file["a"]
    deployed = compose(file, [record], [])["a"]
    assert (deployed.pipeline.source, deployed.engine) == ("rtsp://file", engine("deployed"))
    assert compose({}, [record], [])["a"].pipeline.source == "rtsp://record"
    assert compose(file, [record], [part])["a"] == part


def test_a_release_without_a_source_brings_its_engine_to_the_devices_own_camera() -> None:
    found = compose(a_file("a"), [a_record("a")], [a_part("a", source=""), a_part("b", source="")])

    assert set(found) == {"a"}
    assert (found["a"].pipeline.source, found["a"].base) == ("rtsp://file", HOME)
    assert (found["a"].engine, found["a"].release) == (engine("released"), "d")


def test_an_engine_without_a_source_is_no_pipeline() -> None:
    assert compose({}, [a_record("a", source="")], []) == {}


NAMES = st.sets(st.sampled_from("abcd"))


@given(NAMES, NAMES, NAMES)
def test_taking_a_release_away_leaves_what_was_before(
    files: set[str], records: set[str], parts: set[str]
) -> None:
    below = {name: one for name in files for name, one in a_file(name).items()}
    deployed = [a_record(name) for name in sorted(records)]
    before = compose(below, deployed, [])

    with_release = compose(below, deployed, [a_part(name) for name in sorted(parts)])

    assert {n: one for n, one in with_release.items() if n not in parts} == {
        n: one for n, one in before.items() if n not in parts
    }
    assert {n for n, one in with_release.items() if one.release} == parts
    assert compose(below, deployed, []) == before


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with deploying.machine(tmp_path):
        yield app.updates_dir()


def made(root: Path, folder: Path, **options: object) -> str:
    """A release, built here."""
    digest = releases.unpacked(releases.write(folder, **options), root)  # type: ignore[arg-type]
    release_build.build(root, digest, lambda *_: None, try_out)
    return digest


def test_the_link_alone_says_which_release_serves(root: Path, tmp_path: Path) -> None:
    first, second = made(root, tmp_path / "r"), made(root, tmp_path / "s", seed=1)
    layout, config = Layout(root), tmp_path / "agent.yaml"
    device = DeviceConfig(pipelines=())

    seen = []
    for digest in (first, second, first, ""):
        layout.switch(digest)
        found = app.wanted(device, config)
        seen.append([(name, one.release) for name, one in found.items()])
        demanded = app.demands(device, config)
        assert [d.engine for d in demanded.values()] == [
            one.engine.fingerprint for one in found.values() if one.engine
        ]
    assert seen == [[("tiny", first)], [("tiny", second)], [("tiny", first)], []]


def test_a_release_that_was_not_built_here_does_not_serve(root: Path, tmp_path: Path) -> None:
    digest = releases.unpacked(releases.write(tmp_path / "r"), root)
    Layout(root).switch(digest)
    device = DeviceConfig(pipelines=())

    with pytest.raises(UpdateError, match="without a word"):
        app.wanted(device, tmp_path / "agent.yaml")
    built.write(root, built.Built(digest=digest, built_at=0.0))
    with pytest.raises(UpdateError, match="no engine was built for pipeline 'tiny'"):
        app.wanted(device, tmp_path / "agent.yaml")
    assert app.demands(device, tmp_path / "agent.yaml") == {}


def test_two_releases_over_one_camera_differ_in_the_network_alone(
    root: Path, tmp_path: Path
) -> None:
    layout, jobs = Layout(root), []
    for digest in (made(root, tmp_path / "r"), made(root, tmp_path / "s", seed=1)):
        layout.switch(digest)
        (one,) = app.wanted(DeviceConfig(pipelines=()), tmp_path / "agent.yaml").values()
        jobs.append(app.job(one))

    assert jobs[0].parts == jobs[1].parts
    assert jobs[0].network != jobs[1].network


@contextmanager
def runtime(folder: Path) -> Iterator[Path]:
    """A real runtime process without any pipeline file; gives its socket."""
    config = folder / "agent.yaml"
    config.write_text("device: cam-1\npipelines: []\n")
    command = [sys.executable, "-m", "edgetrt", "runtime", "--config", str(config)]
    environment = {**os.environ, **deploying.places(folder)}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        try:
            yield folder / "run" / "runtime.sock"
        finally:
            process.terminate()
    assert process.returncode == 0


def result_of(inbox: Receiver, engine_of: str) -> int:
    """Wait for a result of this engine; returns its frame's number."""
    for _ in range(3000):
        datagram = inbox.receive(1.0)
        message = wire.decode_link(datagram) if datagram else None
        if isinstance(message, wire.FrameResult) and message.engine == engine_of:
            return message.frame
    raise AssertionError("no result came of that engine")


@pytest.mark.slow
def test_a_running_runtime_follows_the_link_and_a_restarted_one_begins_with_it(
    root: Path, tmp_path: Path
) -> None:
    digests = made(root, tmp_path / "r"), made(root, tmp_path / "s", seed=1)
    first, second = (built.require(root, digest).pipelines[0].engine[:16] for digest in digests)
    layout = Layout(root)
    layout.switch(digests[0])
    (tmp_path / "run").mkdir(exist_ok=True)
    with Receiver(tmp_path / "run" / "agent.sock") as inbox, runtime(tmp_path) as socket:
        frames = [result_of(inbox, first)]
        layout.switch(digests[1])
        answer = look_again(socket, timeout_s=30.0)
        assert [(one.did, one.engine) for one in answer.pipelines] == [("swapped", second)]
        frames.append(result_of(inbox, second))
        layout.switch(digests[0])
        assert look_again(socket, timeout_s=30.0).state == "taken"
        frames.append(result_of(inbox, first))
        layout.switch("")
        assert look_again(socket, timeout_s=30.0).pipelines[0].did == "stopped"
        layout.switch(digests[1])
        assert look_again(socket, timeout_s=30.0).pipelines[0].did == "started"
    assert frames == sorted(frames)
    with Receiver(tmp_path / "run" / "agent.sock") as inbox, runtime(tmp_path):
        result_of(inbox, second)


def test_the_folder_of_pipelines_may_be_missing_unless_it_was_named(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    assert pipelines_of(DeviceConfig(), path) == {}
    with pytest.raises(ConfigError, match=r"my\.d does not exist"):
        pipelines_of(DeviceConfig(pipelines=("my.d",)), path)
