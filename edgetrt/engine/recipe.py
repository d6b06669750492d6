"""Which network, read how: a pipeline's `model` is an ONNX file or a recipe beside one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgetrt import document
from edgetrt.config import PipelineConfig, RecipeConfig
from edgetrt.errors import ConfigError


@dataclass(frozen=True)
class Recipe:
    """A recipe with its paths resolved; `path` is the file it came from."""

    path: Path
    model: Path
    config: RecipeConfig


def read(path: Path) -> Recipe:
    """Read a recipe, or make the plain one for an ONNX file.

    Raises:
        ConfigError: neither, or the recipe is wrong.
    """
    if path.suffix == ".onnx":
        return Recipe(path, path, RecipeConfig(model=str(path)))
    if path.suffix in (".yaml", ".yml"):
        recipe = document.load(path, RecipeConfig)
        return Recipe(path, document.beside(path, recipe.model), recipe)
    raise ConfigError(
        f"{path}: expected an ONNX file (.onnx) or a recipe (.yaml)",
        "Export the network to ONNX first; an engine file from elsewhere is native code and is not run.",
    )


def for_pipeline(pipeline: PipelineConfig, base: Path) -> Recipe:
    """Find the recipe of a pipeline in folder `base`, with the pipeline's own settings on top."""
    recipe = read((base / Path(pipeline.model).expanduser()).resolve())
    return Recipe(recipe.path, recipe.model, _override(recipe.config, pipeline))


def _override(recipe: RecipeConfig, pipeline: PipelineConfig) -> RecipeConfig:
    own = {"task": pipeline.task, "preprocess": pipeline.preprocess}
    return msgspec.structs.replace(recipe, **{k: v for k, v in own.items() if v is not None})
