"""Every example that a person may copy is one that loads."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import yaml

from edgetrt import document
from edgetrt.cli.run import run
from edgetrt.config import (
    AccuracyConfig,
    DeviceConfig,
    PipelineConfig,
    PreprocessConfig,
    RecipeConfig,
    TaskConfig,
)
from edgetrt.engine import recipe as recipes
from edgetrt.errors import ConfigError
from edgetrt.sources import uri
from edgetrt.sources.gstreamer_library import APT

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


PAGE = ROOT / "docs/recipes.md"
SECTIONS = {
    "## Recipe": RecipeConfig,
    "### `task`": TaskConfig,
    "### `preprocess`": PreprocessConfig,
    "### `accuracy`": AccuracyConfig,
    "## Pipeline file": PipelineConfig,
}


@pytest.mark.parametrize(("heading", "kind"), SECTIONS.items(), ids=str)
def test_every_key_is_on_its_page_with_an_example_that_is_taken(
    heading: str, kind: type[msgspec.Struct]
) -> None:
    text = PAGE.read_text(encoding="utf-8").partition(f"\n{heading}\n")[2]
    section = re.split(r"\n##", text)[0]
    rows = [
        line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")
    ]
    shown = {row[0].strip("`"): row[-1].strip("` |") for row in rows}

    assert set(shown) == {field.encode_name for field in msgspec.structs.fields(kind)}
    needed = {f.encode_name for f in msgspec.structs.fields(kind) if f.required}
    for key, example in shown.items():
        written = yaml.safe_load(example)
        assert set(written) == {key}
        msgspec.convert({**dict.fromkeys(needed, "a"), **written}, kind)


def test_every_recipe_on_the_page_is_one(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        (tmp_path / "recipe.yaml").write_text(block, encoding="utf-8")
        assert recipes.read(tmp_path / "recipe.yaml").config.model.endswith(".onnx")


def test_setup_and_the_hints_name_the_same_packages_of_gstreamer() -> None:
    assert f'GST_PACKAGES="{APT}"' in (ROOT / "scripts/setup").read_text(encoding="utf-8")


def test_the_help_of_run_names_every_scheme_of_a_source() -> None:
    told = " ".join(str(run.__annotations__["source"]).split())
    assert all(f"{scheme}:" in told for scheme in uri.OPTIONS)
