"""Every example that a person may copy is one that loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetrt import document
from edgetrt.config import DeviceConfig, PipelineConfig
from edgetrt.engine import recipe as recipes
from edgetrt.errors import ConfigError
from edgetrt.sources import uri

ROOT = Path(__file__).parents[1]
DEVICE = ROOT / "configs/agent.yaml"
PIPELINES = sorted((ROOT / "configs/pipelines.d").iterdir())
RECIPES = sorted((ROOT / "engines").glob("*/recipe*.yaml"))


def test_the_device_example_names_pipelines_that_are_there() -> None:
    device = document.load(DEVICE, DeviceConfig)

    folders = [document.beside(DEVICE, entry) for entry in device.pipelines]

    assert folders == [ROOT / "configs/pipelines.d"]
    assert list(folders[0].glob("*.yaml"))


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_each_pipeline_example_has_a_network_and_a_source(path: Path) -> None:
    pipeline = document.load(path, PipelineConfig)

    assert pipeline.name == path.name.partition(".")[0]
    assert recipes.for_pipeline(pipeline, path.parent).model.is_file()
    assert uri.parse(pipeline.source, path.parent).scheme in uri.OPTIONS


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_each_recipe_has_its_network_beside_it(path: Path) -> None:
    recipe = recipes.read(path)

    assert recipe.model.parent == path.parent
    assert recipe.model.is_file()


def test_a_slip_in_an_example_names_file_line_and_key(tmp_path: Path) -> None:
    copy = tmp_path / "agent.yaml"
    copy.write_text(DEVICE.read_text().replace("health_s", "heath_s"))
    line = next(n for n, text in enumerate(copy.read_text().splitlines(), 1) if "heath_s" in text)

    with pytest.raises(ConfigError) as caught:
        document.load(copy, DeviceConfig)

    assert caught.value.message.startswith(f"{copy}:{line}: publish.heath_s: ")
    assert "`health_s`" in caught.value.hint
