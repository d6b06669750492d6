"""The package on a fresh machine: it installs, works, and leaves nothing."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system import machine as machines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.machine import Machine

pytestmark = [pytest.mark.system, pytest.mark.timeout(3600)]

REPOSITORY = Path(__file__).parents[2]
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
MOST_BYTES = 100_000_000
RECIPE = "/usr/share/edgetrt/engines/person/recipe.yaml"


def built(arch: str) -> Path:
    """The package of what is committed; made anew where the one in dist/ is older than that."""
    log = ["git", "log", "-1", "--format=%ct"]
    committed = subprocess.run(log, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    found = list((REPOSITORY / "dist").glob(f"edgetrt_*_{arch}.deb"))
    if not found or max(p.stat().st_mtime for p in found) < int(committed.stdout):
        subprocess.run(["scripts/build-deb", "--arch", arch], cwd=REPOSITORY, check=True)
        found = list((REPOSITORY / "dist").glob(f"edgetrt_*_{arch}.deb"))
    return max(found, key=lambda p: p.stat().st_mtime)


@pytest.fixture(scope="module")
def package() -> Path:
    return built(ARCH)


@pytest.fixture(scope="module")
def machine(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """With the package in it."""
    root = tmp_path_factory.mktemp("root")
    made = machines.make(root)
    shutil.copy(package, root / "srv")
    must(made, "apt-get", "update", "-qq")
    apt_get = ("apt-get", "install", "-y", "-qq", "--no-install-recommends")
    must(made, *apt_get, f"/srv/{package.name}")
    yield made
    shutil.rmtree(root)


def must(machine: Machine, *command: str, user: str = "root") -> str:
    done = machine.run("env", "DEBIAN_FRONTEND=noninteractive", *command, user=user)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def ours(machine: Machine) -> set[str]:
    """Every path that has our name in it, and every account."""
    find = [
        "find",
        ".",
        "-xdev",
        "-name",
        "*edgetrt*",
        "-not",
        "-path",
        "./srv/*",
        "-printf",
        "/%P\\n",
    ]
    listed = subprocess.run(find, cwd=machine.root, capture_output=True, text=True, check=True)
    found = set(listed.stdout.splitlines())
    for name in ("passwd", "group", "shadow"):
        if "edgetrt" in (machine.root / "etc" / name).read_text():
            found.add(f"/etc/{name}")
    return found


def test_it_is_as_small_as_agreed(package: Path) -> None:
    parts = subprocess.run(["ar", "t", package], capture_output=True, text=True, check=True)
    if "data.tar.xz" not in parts.stdout:
        pytest.skip("made with --quick")
    assert package.stat().st_size < MOST_BYTES


def test_the_doctor_finds_nothing_wrong(machine: Machine) -> None:
    report = json.loads(must(machine, "edgetrt", "doctor", "--json"))

    assert report["ok"]
    states = {finding["name"]: finding["state"] for finding in report["findings"]}
    assert states["backend onnxruntime"] == "ok"
    assert states["video files and RTSP"] == "ok"


def test_the_person_model_runs(machine: Machine) -> None:
    source = ("--source", "synthetic:768x576?objects=5")

    done = must(machine, "edgetrt", "run", RECIPE, *source, "--frames", "5", "--json")

    report = json.loads(done)
    assert report["frames"] == 5
    assert report["refused"] == 0
    assert report["mean_detections"] > 0


def test_what_is_imported_is_the_packages_own(machine: Machine) -> None:
    trap = machine.root / "srv/trap/edgetrt"
    trap.mkdir(parents=True, exist_ok=True)
    (trap / "__init__.py").write_text("raise SystemExit(99)\n")

    done = machine.run("env", "PYTHONPATH=/srv/trap", "edgetrt", "--version", folder="/srv/trap")

    assert done.stdout.startswith("edgetrt ")


def test_quantization_and_releases_find_their_libraries(machine: Machine) -> None:
    imports = (
        "import onnxruntime.quantization, tuf.ngclient, securesystemslib.signer, paho.mqtt, av"
    )
    places = "PYTHONPATH=/usr/lib/edgetrt:/usr/lib/edgetrt/vendor"

    must(machine, "env", places, "python3", "-W", "ignore", "-c", imports)


@pytest.mark.parametrize("major", [12, 13])
def test_nvidias_bindings_load_for_either_cuda(machine: Machine, major: int) -> None:
    code = (
        f"from edgetrt.gpu import bindings, bundled; bundled.driver_major = lambda: {major};"
        " print(bindings.load('driver').CUDA_VERSION, bool(bindings.load('nvrtc')))"
    )
    places = "PYTHONPATH=/usr/lib/edgetrt:/usr/lib/edgetrt/vendor"

    said = must(machine, "env", places, "python3", "-W", "ignore", "-c", code)

    version, compiler = said.split()
    assert int(version) // 1000 == major
    assert compiler == "True"


def test_the_services_are_enabled_and_their_user_made(machine: Machine) -> None:
    wanted = machine.root / "etc/systemd/system/edgetrt.target.wants"

    assert {p.name for p in wanted.iterdir()} == {
        "edgetrt-agent.service",
        "edgetrt-requests.path",
        "edgetrt-runtime.service",
    }
    assert "edgetrt" in must(machine, "getent", "passwd", "edgetrt")
    must(machine, "test", "-w", "/var/lib/edgetrt", user="edgetrt")


def test_the_shell_completes_and_the_manual_and_the_parts_are_there(machine: Machine) -> None:
    completion = machine.root / "usr/share/bash-completion/completions/edgetrt"
    parts = json.loads((machine.root / "usr/share/doc/edgetrt/sbom.cdx.json").read_text())

    assert "_EDGETRT_COMPLETE" in completion.read_text()
    assert (machine.root / "usr/share/man/man1/edgetrt.1.gz").exists()
    vendored = {part["name"] for part in parts["components"]}
    assert {"paho-mqtt", "onnxruntime", "tuf"} <= vendored


def test_a_changed_config_survives_a_reinstall_and_purge_leaves_nothing(
    machine: Machine, package: Path
) -> None:
    config = machine.root / "etc/edgetrt/agent.yaml"
    config.write_text(config.read_text() + "device: kept-1\n")
    (machine.root / "var/lib/edgetrt/outbox").mkdir(exist_ok=True)
    (machine.root / "etc/edgetrt/pipelines.d/scene.yaml").write_text("name: scene\n")

    must(machine, "apt-get", "install", "-y", "-qq", "--reinstall", f"/srv/{package.name}")
    assert "kept-1" in config.read_text()
    assert (machine.root / "var/lib/edgetrt/outbox").is_dir()
    must(machine, "apt-get", "purge", "-y", "-qq", "edgetrt")

    logs = {path for path in ours(machine) if path.startswith(("/var/lib/apt", "/var/cache/apt"))}
    assert ours(machine) - logs == set()
