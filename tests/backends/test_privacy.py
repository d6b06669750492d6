"""A device talks to its owner alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import ROOT

LOAD = """
import sys, pathlib
from edgetrt.backends.{module} import {backend}
{backend}().load(pathlib.Path(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("module", "backend"),
    [("onnxruntime", "OnnxRuntimeBackend"), ("openvino", "OpenVinoBackend")],
)
def test_a_backend_opens_no_session_with_its_makers(
    module: str, backend: str, tmp_path: Path
) -> None:
    pytest.importorskip(module)
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
    load = LOAD.format(module=module, backend=backend)
    command = [sys.executable, "-c", load, str(ROOT / "engines/person/person.onnx")]
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert list(scratch.iterdir()) == []  # neither its session's file nor its device's name
