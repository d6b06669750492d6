"""How a network is read: the size of its input, its task, and what is taken for granted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgetrt import app
from edgetrt.engine import recipe as recipes
from edgetrt.engine.recipe import Recipe
from edgetrt.errors import ConfigError, ModelError
from edgetrt.runtime.reading import Reading
from edgetrt.types import Frame, RawOutput
from tests.model.onnx_graphs import Dim, model, node, save
from tests.runtime.scenes import frame


def recipe(
    folder: Path,
    shape: tuple[Dim, ...],
    text: str = "",
    metadata: dict[str, str] | None = None,
) -> Recipe:
    """Of a network that gives the mean of each channel."""
    axes = [1, 2] if shape[-1] == 3 else [2, 3]
    made = model([node("ReduceMean", "x", "y", axes=axes)], {"x": shape}, ["y"], metadata=metadata)
    path = save(made, folder)
    file = folder / "recipe.yaml"
    file.write_text(f"model: {path.name}\n{text}", encoding="utf-8")
    return recipes.read(file)


OPEN: tuple[Dim, ...] = ("n", 3, "h", "w")


@pytest.mark.parametrize(
    ("shape", "filled"),
    [
        (OPEN, (1, 3, 48, 64)),
        (("n", "h", "w", 3), (1, 48, 64, 3)),
        (("n", "c", "h", "w"), (1, 3, 48, 64)),
        ((1, 3, 48, "w"), (1, 3, 48, 64)),
        ((1, 3, 48, 64), (1, 3, 48, 64)),
    ],
)
def test_a_recipe_says_an_open_height_and_width(
    tmp_path: Path, shape: tuple[Dim, ...], filled: tuple[int, ...]
) -> None:
    reading = Reading.of(recipe(tmp_path, shape, "preprocess: {input_size: [48, 64]}"))

    assert reading.shapes == {"x": filled}


def test_the_recipe_goes_before_the_exporter_and_not_against_the_file(tmp_path: Path) -> None:
    said = {"imgsz": "[32, 96]"}
    asked = "preprocess: {input_size: [48, 64]}"

    assert Reading.of(recipe(tmp_path, OPEN, "", said)).input.shape == (1, 3, 32, 96)
    assert Reading.of(recipe(tmp_path, OPEN, asked, said)).input.shape == (1, 3, 48, 64)
    with pytest.raises(ConfigError, match=r"input_size: \[48, 64\] .* does not fit input 'x'"):
        _ = Reading.of(recipe(tmp_path, (1, 3, 64, 64), asked)).input


def test_an_open_network_runs_by_its_recipe(tmp_path: Path) -> None:
    found = recipe(tmp_path, OPEN, "preprocess: {input_size: [48, 64], resize: stretch}")
    network = app.open_network(found, "onnxruntime", 1, 1)
    (lane,) = network.lanes
    white = frame(0).data * 0 + 255
    placed = lane.preprocessor.write(Frame(white, "rgb", 0, 0))
    output = network.task.decode(lane.session.infer(), placed, (64, 48))
    network.close()

    assert isinstance(output, RawOutput)
    assert output.tensors["y"].ravel().tolist() == [1.0, 1.0, 1.0]


def test_an_open_size_that_nobody_says_is_refused_with_the_key(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"open dimensions \[\?, 3, \?, \?\]") as caught:
        _ = Reading.of(recipe(tmp_path, OPEN)).input
    assert "preprocess: {input_size: [640, 640]}" in caught.value.hint


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ({"x": ("n", 2048)}, "y", r"takes no image: input 'x' is float32 \[\?, 2048\]"),
        ({"x": (1, 1, 64, 64)}, "y", "expected three channels"),
        ({"x": (4, 3, 64, 64)}, "y", "expected one image at a time"),
        ({"x": (1, 3, 8, 8), "b": (1, 3, 8, 8)}, "y", r"takes 2 inputs \(x, b\)"),
        ({"x": (1, 4), "h": (1, 4)}, "hn", "networks with state are not supported"),
    ],
)
def test_what_frames_cannot_be_fed_to_is_told_as_that(
    tmp_path: Path, inputs: dict[str, tuple[Dim, ...]], outputs: str, words: str
) -> None:
    nodes = [node("Sum", " ".join(inputs), outputs)]
    path = save(model(nodes, inputs, [outputs]), tmp_path)
    assert any(re.search(words, note) for note in Reading.of(recipes.read(path)).notes)
    with pytest.raises(ModelError, match=words):
        app.open_network(recipes.read(path), "onnxruntime", 1, 1)


def test_a_task_that_is_not_decoded_gives_tensors_and_says_so(tmp_path: Path) -> None:
    found = recipe(tmp_path, (1, 3, 8, 8), metadata={"task": "classify"})
    reading = Reading.of(found)

    assert (reading.kind, reading.gate().task) == ("raw", "raw")
    assert "its task is 'classify'" in reading.notes[0]


def test_pixels_that_no_recipe_describes_are_told(tmp_path: Path) -> None:
    plain = Reading.of(recipe(tmp_path, (1, 3, 8, 8)))
    told = Reading.of(recipe(tmp_path, (1, 3, 8, 8), "preprocess: {mean: [0.5, 0.5, 0.5]}"))

    assert [note.partition(";")[0] for note in plain.notes] == [
        "pixels are given in RGB, 0..1, without mean and std"
    ]
    assert told.notes == ()
