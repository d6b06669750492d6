"""The person model's own scripts: they explain themselves anywhere, and measure right."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from types import ModuleType

TRAIN = Path(__file__).parents[1] / "engines/person/train"


@pytest.mark.parametrize("name", ["autolabel", "train", "evaluate"])
def test_help_needs_no_training_library(name: str) -> None:
    # -I -S: the standard library alone, as on a machine that has neither torch nor OpenCV.
    command = [sys.executable, "-I", "-S", TRAIN / f"{name}.py", "--help"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "--video" in done.stdout


@pytest.mark.parametrize("path", sorted(TRAIN.glob("*.py")), ids=lambda path: path.name)
def test_each_module_is_valid_on_this_python(path: Path) -> None:
    assert compile(path.read_text(), path, "exec").co_consts


@pytest.fixture(scope="module")
def metric() -> ModuleType:
    spec = spec_from_file_location("metric", TRAIN / "metric.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PEOPLE = np.array([[0, 0, 10, 20, 1], [50, 0, 60, 20, 1]], float)
REGION = np.array([[100, 0, 140, 40, 0]], float)


def found(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, float).reshape(-1, 5)


def test_finding_everybody_and_nothing_else_is_perfect(metric: ModuleType) -> None:
    frames = [(found((0, 0, 10, 20, 0.9), (50, 0, 60, 20, 0.8)), PEOPLE)]

    assert metric.average_precision(frames, 0.5)[0] == 1.0


def test_one_of_two_gives_the_recalls_it_reaches(metric: ModuleType) -> None:
    frames = [(found((0, 0, 10, 20, 0.9)), PEOPLE)]

    # Recalls 0.00, 0.01, … 0.50 have precision 1; the other fifty of the 101 have 0.
    assert metric.average_precision(frames, 0.5)[0] == pytest.approx(51 / 101)


def test_a_second_box_on_one_person_is_a_false_alarm(metric: ModuleType) -> None:
    rows = found((0, 0, 10, 20, 0.9), (0, 0, 10, 19, 0.8), (50, 0, 60, 20, 0.7))

    assert metric.match(rows, PEOPLE, 0.5).tolist() == [1, 0, 1]


def test_what_lies_in_an_ignored_region_counts_for_nothing(metric: ModuleType) -> None:
    truth = np.concatenate((PEOPLE, REGION))
    rows = found((0, 0, 10, 20, 0.9), (100, 0, 140, 40, 0.8), (50, 0, 60, 20, 0.7))

    assert metric.match(rows, truth, 0.5).tolist() == [1, -1, 1]
    assert metric.average_precision([(rows, truth)], 0.5)[0] == 1.0


def test_nothing_found_is_zero(metric: ModuleType) -> None:
    summary = metric.summary([(found(), PEOPLE)], score=0.35)

    assert (summary["ap50"], summary["precision"], summary["recall"]) == (0.0, 0.0, 0.0)
