"""`edgetrt build` with TensorRT-RTX, which builds real plans where there is no GPU."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from edgetrt.engine.plan import read_header
from tests.cli.test_deploy import Machine

pytest.importorskip("tensorrt_rtx_bindings")


@pytest.fixture
def here(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_plan_and_manifest_are_right(here: Machine, precision: str) -> None:
    out = here.folder / "out"
    words = ("--precision", precision, "--calib", here.frames, "-o", out, "--json")
    done = here.run("build", here.model, "--backend", "tensorrt", *words)
    assert done.code == 0, done.err
    report = done.json()["report"]
    assert (report["precision"], report["latency_ms"]) == (precision, None)
    assert any("built and not run" in warning for warning in report["warnings"])
    plan = (out / "engine.plan").read_bytes()
    assert str(read_header(plan)).startswith("TensorRT-RTX 1.")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["main"] == "engine.plan"
    assert manifest["files"]["engine.plan"]["sha256"] == hashlib.sha256(plan).hexdigest()
    assert manifest["fields"]["toolchain.flavour"] == "tensorrt_rtx"
    assert manifest["fields"]["spec.precision"] == precision
    again = here.run("build", here.model, "--backend", "tensorrt", *words)
    assert again.json()["cache"] == "hit"


def test_what_cannot_run_here_is_not_put_to_work(here: Machine) -> None:
    done = here.run("deploy", here.model, "--backend", "tensorrt", "--precision", "fp32", "--json")
    assert done.json()["state"] == "cached"
    assert not (here.folder / "state").exists()


def test_its_dla_is_missed(here: Machine) -> None:
    done = here.run("build", here.model, "--backend", "tensorrt", "--dla")
    assert done.code == 65
    assert "has no DLA" in done.err
