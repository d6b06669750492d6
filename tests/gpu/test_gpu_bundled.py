"""Which of the package's CUDA bindings a driver gets."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

import pytest

from edgetrt.gpu import bundled

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """A path of two folders, of which the second is the package's."""
    for name in ("first", "vendor/cuda12", "vendor/cuda13", "vendor/cudaXY"):
        (tmp_path / name).mkdir(parents=True)
    return [str(tmp_path / "first"), str(tmp_path / "vendor")]


@pytest.mark.parametrize(
    ("driver", "folder"), [(12, "cuda12"), (13, "cuda13"), (14, "cuda13"), (None, "cuda13")]
)
def test_a_driver_gets_the_newest_bindings_that_it_runs(
    places: list[str], driver: int | None, folder: str
) -> None:
    chosen = bundled.choose(places, driver)

    assert chosen is not None
    assert chosen.name == folder


def test_an_older_driver_and_an_empty_path_get_none(places: list[str]) -> None:
    assert bundled.choose(places, 11) is None
    assert bundled.choose(places[:1], 13) is None


def test_the_folder_comes_last_and_once(places: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*places, "/elsewhere"])

    bundled.offer()
    bundled.offer()

    if bundled.driver_major() in (None, 12, 13, 14):
        assert [p for p in sys.path if "vendor/cuda" in p] == sys.path[-1:]


def test_the_driver_is_asked_where_there_is_one() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert bundled.driver_major() is None
    else:
        assert bundled.driver_major()
