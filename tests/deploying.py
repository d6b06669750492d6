"""What the tests of a deployment share: a tiny detector, its frames, and a machine of one's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from edgetrt.demo import update_networks
from edgetrt.demo.update_networks import SIZE


def detector(path: Path, seed: int = 0) -> Path:
    """The demo's one-class detector: it "finds" bright cells."""
    update_networks.detector(path, seed)
    return path


def pictures(folder: Path, count: int = 6) -> Path:
    """Dark pictures, each with a few bright squares somewhere."""
    random = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture = random.integers(0, 60, (SIZE, SIZE, 3)).astype(np.uint8)
        for _ in range(3):
            x, y = random.integers(0, SIZE - 20, 2)
            picture[y : y + 20, x : x + 20] = random.integers(190, 255)
        Image.fromarray(picture).save(folder / f"{number:02}.png")
    return folder


def places(folder: Path) -> dict[str, str]:
    """Environment of a machine of one's own: cache, state and sockets under a short folder."""
    run = folder / "run"
    run.mkdir(parents=True, exist_ok=True)
    return {
        "EDGETRT_CACHE": str(folder / "engines"),
        "EDGETRT_STATE": str(folder / "state"),
        "RUNTIME_DIRECTORY": str(run),
        "XDG_CACHE_HOME": str(folder / "xdg"),
        "CACHE_DIRECTORY": str(folder / "xdg"),
    }


@contextmanager
def machine(folder: Path) -> Iterator[Path]:
    """The same for code that runs in this process."""
    before = dict(os.environ)
    os.environ.update(places(folder))
    try:
        yield folder
    finally:
        os.environ.clear()
        os.environ.update(before)
