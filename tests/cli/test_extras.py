"""A command whose libraries are not installed says how to get them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from edgetrt.cli.extras import EXTRAS, explained
from tests.cli.command import ROOT

_WITHOUT = """\
import sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(","), None))
from edgetrt.cli import main
sys.exit(main())
"""


def test_a_release_without_the_extra_names_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WITHOUT, ",".join(EXTRAS), "release", "init"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert "of the extra `update`, which is not installed" in done.stderr
    assert "pip install 'edgetrt[update]'" in done.stderr
    assert "scripts/setup update" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_library_stays_a_fault_of_ours() -> None:
    assert explained(ModuleNotFoundError("no", name="edgetrt.nothing")) is None
    assert explained(ModuleNotFoundError("no")) is None
    broken = explained(ModuleNotFoundError("no", name="onnx.helper"))
    assert broken is not None
    assert "needs onnx" in broken.message
