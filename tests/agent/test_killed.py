"""A process that is killed while it writes loses nothing that was committed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=pytest.mark.system)])
def test_the_file_opens_and_holds_all_that_was_committed(tmp_path: Path, count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.agent.killed_writer", str(tmp_path), str(count)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == count
    for one in found:
        # The last commit may be done and not told.
        assert one["told"] <= one["held"] <= one["told"] + 1
        assert (one["wrong"], one["moved_aside"]) == (0, 0)
    assert len({one["held"] for one in found}) > 3
