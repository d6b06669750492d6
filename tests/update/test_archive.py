"""What `release add` says of a release before anybody signs it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from edgetrt.update.archive import vain_bounds
from tests.update.device import write_release


@pytest.mark.parametrize(
    ("pipeline", "vain"),
    [
        ("source: 'synthetic:64x48'\n", []),
        ("source: 'synthetic:64x48?rate_hz=20'\n", []),
        ("source: 'synthetic:64x48?objects=1&rate_hz=19.5'\n", ["rate_hz 19.5"]),
        ("source: 'csi:0'\nrate_hz: 5\n", ["rate_hz 5"]),
        ("source: 'synthetic:64x48?rate_hz=30'\nrate_hz: 10\n", ["rate_hz 10"]),
        ("source: 'synthetic:64x48?rate_hz=fast'\n", []),
    ],
)
def test_a_bound_above_the_rate_of_its_pipeline_is_told(
    tmp_path: Path, pipeline: str, vain: list[str]
) -> None:
    path = write_release(tmp_path / "src", "1.0", b"network")  # it promises 20 frames a second
    (tmp_path / "src/street.yaml").write_text(f"name: street\nmodel: recipe.yaml\n{pipeline}")
    told = vain_bounds(path)
    assert len(told) == len(vain)
    assert all(words in one for words, one in zip(vain, told, strict=True))
