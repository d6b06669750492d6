"""The arm64 package on an arm64 machine: Debian's own, run by an emulator where there is no board."""

from __future__ import annotations

import json
import platform
import shutil
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from tests.system import machine as machines
from tests.system.test_deb import RECIPE, built, must

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.machine import Machine

# The emulator is ten times slower than the machine it runs on.
pytestmark = [pytest.mark.system, pytest.mark.timeout(7200)]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """With the arm64 package in it."""
    package = built("arm64")
    root = tmp_path_factory.mktemp("arm64")
    native = platform.machine() == "aarch64"
    with nullcontext() if native else machines.emulated("aarch64"):
        made = machines.make(root, arch="arm64")
        shutil.copy(package, root / "srv")
        if not native:
            without_bytecode(made)
        must(made, "apt-get", "update", "-qq")
        apt_get = ("apt-get", "install", "-y", "-qq", "--no-install-recommends")
        must(made, *apt_get, f"/srv/{package.name}")
        yield made
    shutil.rmtree(root)


def without_bytecode(machine: Machine) -> None:
    """Compile no Python when packages are installed: that takes the emulator an hour."""
    must(machine, "dpkg-divert", "--quiet", "--local", "--rename", "/usr/bin/py3compile")
    nothing = machine.root / "usr/bin/py3compile"
    nothing.write_text("#!/bin/sh\n")
    nothing.chmod(0o755)


def test_the_machine_is_of_the_boards_architecture(board: Machine) -> None:
    assert must(board, "uname", "-m").strip() == "aarch64"
    assert must(board, "dpkg", "--print-architecture").strip() == "arm64"


def test_the_doctor_finds_the_package_whole(board: Machine) -> None:
    report = json.loads(must(board, "edgetrt", "doctor", "--json"))

    assert report["ok"]
    states = {finding["name"]: finding["state"] for finding in report["findings"]}
    assert states["backend onnxruntime"] == "ok"
    assert states["video files and RTSP"] == "ok"


def test_the_person_model_finds_people(board: Machine) -> None:
    source = ("--source", "synthetic:768x576?objects=5")

    report = json.loads(must(board, "edgetrt", "run", RECIPE, *source, "--frames", "5", "--json"))

    assert report["frames"] == 5
    assert report["refused"] == 0
    assert report["mean_detections"] > 0


def test_every_compiled_library_loads(board: Machine) -> None:
    imports = (
        "import onnxruntime, onnx, av, msgspec, cryptography.hazmat.bindings._rust, cffi,"
        " tuf.ngclient, securesystemslib.signer, paho.mqtt.client;"
        " from edgetrt.gpu import bundled; bundled.offer();"
        " import cuda.bindings.driver, cuda.bindings.nvrtc; print(cuda.bindings.driver.CUDA_VERSION)"
    )
    places = "PYTHONPATH=/usr/lib/edgetrt:/usr/lib/edgetrt/vendor"

    assert must(board, "env", places, "python3", "-W", "ignore", "-c", imports).startswith("13")
