from __future__ import annotations

from pathlib import Path

import pytest

from edgetrt.config import PipelineConfig, TaskConfig
from edgetrt.engine.active import Active, Deployed
from edgetrt.errors import ConfigError

DOOR = PipelineConfig(name="door", model="/m.onnx", source="synthetic:64x64")


def engine(fingerprint: str, score: float = 0.25) -> Deployed:
    return Deployed(
        fingerprint=fingerprint,
        backend="onnxruntime",
        model="/m.onnx",
        precision="int8",
        deployed_at="2026-01-01T00:00:00Z",
        task=TaskConfig(score=score),
    )


def test_the_engine_before_is_kept_and_comes_back_with_its_settings(tmp_path: Path) -> None:
    active = Active(tmp_path / "active")
    assert active.activate(DOOR, engine("a", 0.1)).previous is None
    assert active.activate(DOOR, engine("b", 0.9)).previous == engine("a", 0.1)
    back = active.rollback("door")
    assert back.current == engine("a", 0.1)
    assert Active(tmp_path / "active").get("door") == back
    assert active.rollback("door").current == engine("b", 0.9)


def test_deploying_the_same_again_does_not_forget_what_came_before(tmp_path: Path) -> None:
    active = Active(tmp_path)
    for name in ("a", "b", "b", "b"):
        record = active.activate(DOOR, engine(name))
    assert record.previous == engine("a")


def test_there_must_be_something_to_go_back_to(tmp_path: Path) -> None:
    active = Active(tmp_path)
    with pytest.raises(ConfigError, match="nothing was deployed") as caught:
        active.rollback("door")
    assert "nothing yet" in caught.value.hint
    active.activate(DOOR, engine("a"))
    with pytest.raises(ConfigError, match="first engine"):
        active.rollback("door")
    with pytest.raises(ConfigError, match="nothing was deployed") as caught:
        active.rollback("gate")
    assert "door" in caught.value.hint


@pytest.mark.parametrize("name", ["../door", "a/b", "Door", "", "x" * 64, "a.b", "door\n"])
def test_a_name_never_leaves_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="not a name"):
        Active(tmp_path).get(name)


def test_a_damaged_record_is_told_with_its_file(tmp_path: Path) -> None:
    active = Active(tmp_path)
    active.activate(DOOR, engine("a"))
    path = tmp_path / "door.json"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ConfigError, match=r"door\.json: damaged"):
        active.get("door")


def test_what_a_killed_writer_left_is_no_record(tmp_path: Path) -> None:
    active = Active(tmp_path)
    active.activate(DOOR, engine("a"))
    (tmp_path / ".door.1.new").write_bytes(b"{")
    assert [record.pipeline.name for record in active.all()] == ["door"]
    assert active.names() == ["door"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        Active(tmp_path / "file" / "active").activate(DOOR, engine("a"))
    assert "EDGETRT_STATE" in caught.value.hint


def test_a_record_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "active").mkdir()
    (tmp_path / "active" / "door.json").mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        Active(tmp_path / "active").activate(DOOR, engine("a"))
