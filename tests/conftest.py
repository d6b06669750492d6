"""What every test stands on: folders of its own for state and engines, never the person's."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands that tests start inherit these."""
    folder = tmp_path_factory.mktemp("own")
    wanted = {"EDGETRT_STATE": str(folder / "state"), "EDGETRT_CACHE": str(folder / "engines")}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
