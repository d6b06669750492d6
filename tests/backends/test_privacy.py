"""A device talks to its owner alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.cli.command import ROOT

LOAD = """
import sys, pathlib
from edgetrt.backends.onnxruntime import OnnxRuntimeBackend
OnnxRuntimeBackend().load(pathlib.Path(sys.argv[1]))
"""


def test_onnx_runtime_opens_no_session_with_its_makers(tmp_path: Path) -> None:
    # Where CI is in the environment it keeps quiet by itself, so little of ours is handed down.
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-c", LOAD, str(ROOT / "engines/person/person.onnx")]
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert list(scratch.iterdir()) == []  # neither its session's file nor its device's name
