"""From a person's words to a plan, and to a runtime that is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgetrt import app, wire
from edgetrt.config import PipelineConfig
from edgetrt.deploy.activation import rollback, tell_runtime
from edgetrt.deploy.deployment import copy_out, run
from edgetrt.deploy.request import Request, look_up, name_of
from edgetrt.engine.active import Deployed
from edgetrt.errors import ConfigError, EngineMismatchError, PlacementError
from edgetrt.link import Receiver, Sender
from tests.deploying import detector, machine, pictures


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with machine(tmp_path_factory.mktemp("m")) as folder:
        yield folder


def quiet(step: str, what: str = "", fraction: float | None = None) -> None:
    return


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("models/Person v2.onnx", "person-v2"),
        ("engines/person/recipe.yaml", "person"),
        ("engines/person/recipe-dla.yaml", "person"),
        ("___.onnx", "pipeline"),
        ("x" * 80 + ".onnx", "x" * 63),
    ],
)
def test_a_pipeline_s_name_from_a_file_s(path: str, name: str) -> None:
    assert name_of(Path(path)) == name


def test_the_source_of_before_is_taken_where_none_is_named(here: Path) -> None:
    model, frames = detector(here / "tiny.onnx"), str(pictures(here / "frames"))
    quick = {"what": model, "precision": "fp32", "backend": "onnxruntime", "bench_s": 0.02}
    first = run(Request(source=frames, **quick), quiet)
    assert first.state == "installed"
    assert first.report.waterfall_ms["infer"] > 0
    plan = look_up(Request(**quick))
    assert plan.source is not None
    assert plan.source.target == frames
    assert plan.calib == plan.source
    record = app.active().get("tiny")
    assert record is not None
    assert record.pipeline.source == frames or record.pipeline.source == f"dir:{frames}"
    copy_out(first.report.engine, here / "out")
    assert (here / "out" / "manifest.json").exists()
    (here / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be copied"):
        copy_out(first.report.engine, here / "file" / "out")
    with pytest.raises(EngineMismatchError, match="no engine"):
        copy_out("0" * 64, here / "out")


def test_a_dry_run_changes_nothing(here: Path) -> None:
    model = detector(here / "tiny.onnx")
    done = run(Request(model, backend="onnxruntime", bench_s=0.02, dry_run=True), quiet)
    assert done.state == "dry-run"
    assert app.active().all() == []


def test_only_tensorrt_runs_the_dla(here: Path) -> None:
    recipe = here / "recipe.yaml"
    recipe.write_text(f"model: {detector(here / 'tiny.onnx')}\ndla: 0\n")
    with pytest.raises(PlacementError, match="has no DLA"):
        look_up(Request(recipe))
    plan = look_up(Request(recipe, target="orin-nx-16gb"))
    assert (plan.target, plan.here) == ("orin-nx-16gb", False)


def test_nothing_to_go_back_to(here: Path) -> None:
    with pytest.raises(ConfigError, match="nothing was deployed"):
        rollback("tiny")


def test_without_a_runtime_it_is_for_the_next_start(here: Path) -> None:
    assert tell_runtime("tiny")[0] == "installed"
    with Receiver(app.run_dir() / app.RUNTIME_SOCKET):
        pass
    assert "next start" in tell_runtime("tiny")[1]


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [("", "swapped", "between two frames"), ("the engine is gone", "installed", "engine is gone")],
)
def test_what_the_runtime_answers_is_told(here: Path, error: str, state: str, words: str) -> None:
    with Receiver(app.run_dir() / app.RUNTIME_SOCKET) as inbox:

        def answer() -> None:
            asked = inbox.receive(10.0)
            assert asked is not None
            message = wire.decode_link(asked)
            assert isinstance(message, wire.ActivateMessage)
            told = wire.ActivatedMessage(pipeline=message.pipeline, engine="e", error=error)
            with Sender(app.run_dir() / message.reply) as sender:
                sender.send(wire.encode(told))

        runtime = threading.Thread(target=answer)
        runtime.start()
        found, detail = tell_runtime("tiny")
        runtime.join(timeout=10)
    assert found == state
    assert words in detail


def test_an_engine_under_a_name_that_a_release_serves_waits(here: Path) -> None:
    engine = Deployed(
        fingerprint="a" * 64, backend="onnxruntime", model="/m", precision="fp32", deployed_at=""
    )
    app.active().activate(PipelineConfig(name="tiny", model="/m", source=""), engine)
    with Receiver(app.run_dir() / app.RUNTIME_SOCKET) as inbox:

        def answer() -> None:
            message = wire.decode_link(inbox.receive(10.0) or b"")
            assert isinstance(message, wire.ActivateMessage)
            kept = wire.Taken(pipeline="tiny", did="kept", engine="b" * 16)
            told = wire.ActivatedMessage(pipeline="tiny", engine="b" * 16, pipelines=(kept,))
            with Sender(app.run_dir() / message.reply) as sender:
                sender.send(wire.encode(told))

        runtime = threading.Thread(target=answer)
        runtime.start()
        found, detail = tell_runtime("tiny")
        runtime.join(timeout=10)
    assert (found, "release serves" in detail) == ("installed", True)


def test_an_engine_without_a_source_serves_the_pipeline_file_of_its_name(here: Path) -> None:
    from edgetrt.config import DeviceConfig

    engine = Deployed(
        fingerprint="a" * 64, backend="onnxruntime", model="/m", precision="fp32", deployed_at=""
    )
    app.active().activate(PipelineConfig(name="bare", model="/m", source=""), engine)
    app.active().activate(PipelineConfig(name="whole", model="/m", source="synthetic:"), engine)
    (here / "pipelines.d").mkdir()
    assert set(app.wanted(DeviceConfig(), here / "agent.yaml")) == {"whole"}
