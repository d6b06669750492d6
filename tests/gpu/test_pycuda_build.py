"""Building PyCUDA, with stand-ins for the archive and for CUDA."""

from __future__ import annotations

import hashlib
import tarfile
from typing import TYPE_CHECKING

import pytest

from edgetrt.errors import BackendError
from edgetrt.gpu import pycuda_build
from tests.cli.command import edgetrt

if TYPE_CHECKING:
    from pathlib import Path

SETUP = """\
import pathlib, sys
import siteconf
assert not siteconf.CUDA_ENABLE_CURAND
for name in ("one", "two"):
    print(f"c++ -O2 -c src/{name}.cpp -o {name}.o", flush=True)
FAULT
folder = pathlib.Path(sys.argv[sys.argv.index("--build-lib") + 1], "pycuda")
folder.mkdir(parents=True)
(folder / "__init__.py").touch()
(folder / "driver.py").write_text('''
def init(): pass
def get_driver_version(): return 12060
''')
"""


@pytest.fixture
def cuda(tmp_path: Path) -> Path:
    """A folder with what building looks for."""
    for name in ("bin/nvcc", "include/cuda.h", "lib64/stubs/libcuda.so"):
        file = tmp_path / "cuda" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    nvcc = tmp_path / "cuda/bin/nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.6, V12.6.68'\n")
    nvcc.chmod(0o755)
    return tmp_path / "cuda"


def archive(folder: Path, fault: str = "") -> Path:
    """A source archive whose set-up prints what a compiler would be called with."""
    source = folder / "pycuda-0"
    (source / "src").mkdir(parents=True)
    (source / "setup.py").write_text(SETUP.replace("FAULT", fault))
    for name in ("one", "two"):
        (source / f"src/{name}.cpp").touch()
    made = folder / "pycuda-0.tar.gz"
    with tarfile.open(made, "w:gz") as tar:
        tar.add(source, "pycuda-0")
    return made


def unpacked(folder: Path, fault: str = "") -> Path:
    made = archive(folder, fault)
    into = folder / "work"
    into.mkdir()
    return pycuda_build.unpack(made, into, hashlib.sha256(made.read_bytes()).hexdigest())


def test_what_is_built_starts_from_its_folder(tmp_path: Path, cuda: Path) -> None:
    told: list[tuple[str, float | None]] = []
    to = tmp_path / "libraries"

    built = pycuda_build.build(
        unpacked(tmp_path), cuda, lambda _, what, fraction: told.append((what, fraction))
    )
    for _ in range(2):  # a second time takes the place of the first
        pycuda_build.install(built, to)

    assert told == [("one.cpp", 0.5), ("two.cpp", 1.0)]
    assert pycuda_build.try_out(to) == "12.6"
    assert [p.name for p in to.iterdir()] == ["pycuda"]


def test_the_compilers_complaint_is_the_message(tmp_path: Path, cuda: Path) -> None:
    fault = "sys.exit('src/two.cpp:7:10: fatal error: cuda.h: No such file')"

    with pytest.raises(BackendError, match=r"fatal error: cuda\.h"):
        pycuda_build.build(unpacked(tmp_path, fault), cuda, lambda *_: None)


def test_another_file_is_not_unpacked(tmp_path: Path) -> None:
    into = tmp_path / "work"
    into.mkdir()

    with pytest.raises(BackendError, match="is not PyCUDA"):
        pycuda_build.unpack(archive(tmp_path), into)
    assert not list(into.iterdir())


def missing(cuda: Path | None, work: Path, to: Path) -> set[str]:
    return {one.name for one in pycuda_build.examine(cuda, work, to) if not one.found}


def test_a_complete_toolkit_lacks_nothing_of_cudas(tmp_path: Path, cuda: Path) -> None:
    names = {"nvcc", "CUDA's headers", "CUDA's driver library", "folder"}

    assert not names & missing(cuda, tmp_path, tmp_path / "to" / "be" / "made")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("bin/nvcc", "nvcc"),
        ("include/cuda.h", "CUDA's headers"),
        ("lib64/stubs/libcuda.so", "CUDA's driver library"),
    ],
)
def test_what_a_toolkit_lacks_is_named(tmp_path: Path, cuda: Path, file: str, name: str) -> None:
    (cuda / file).unlink()

    found = missing(cuda, tmp_path, tmp_path)

    if name != "CUDA's driver library" or not any(
        (folder / "libcuda.so").exists() for folder in pycuda_build.driver_folders(cuda)
    ):
        assert name in found


def test_a_compiler_that_does_not_run_is_none(tmp_path: Path, cuda: Path) -> None:
    (cuda / "bin/nvcc").write_text("#!/bin/sh\nexit 1\n")

    assert "nvcc" in missing(cuda, tmp_path, tmp_path)


def test_the_command_says_what_is_missing_and_builds_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    done = edgetrt("setup", "pycuda", "--cuda", tmp_path / "empty", "--to", tmp_path / "to")

    assert done.code == BackendError.exit_code
    assert "missing: nvcc, CUDA's headers" in done.err
    assert not (tmp_path / "to").exists()
