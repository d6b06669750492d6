"""Kernels to machine code: the cache, the compilers of this machine, and what they say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgetrt.errors import CudaError
from edgetrt.gpu import compile as kernels
from edgetrt.gpu.compile import Nvcc, first_error

BROKEN = 'extern "C" __global__ void f(int *p) {\n  *p = nosuch;\n}\n'


class Counting:
    """A compiler that counts."""

    name = "counting"

    def __init__(self) -> None:
        self.compiled: list[tuple[str, int]] = []

    def compile(self, source: str, name: str, architecture: int) -> bytes:
        self.compiled.append((name, architecture))
        return f"{name} {architecture} {len(source)}".encode()


def nvcc() -> Nvcc:
    path = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if path is None:
        pytest.skip("no nvcc")
    return Nvcc(path)


def test_a_kernel_is_compiled_once_per_architecture(tmp_path: Path) -> None:
    compiler = Counting()
    images = [
        kernels.load("detect", architecture, tmp_path / "cache", compiler)
        for architecture in (87, 87, 90, 87)
    ]
    assert compiler.compiled == [("detect.cu", 87), ("detect.cu", 90)]
    assert images[0] == images[1] == images[3] != images[2]


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 200])
def test_a_damaged_entry_is_compiled_again(tmp_path: Path, damage: bytes) -> None:
    compiler = Counting()
    image = kernels.load("detect", 87, tmp_path, compiler)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(damage)
    assert kernels.load("detect", 87, tmp_path, compiler) == image
    assert len(compiler.compiled) == 2
    assert kernels.load("detect", 87, tmp_path, compiler) == image
    assert len(compiler.compiled) == 2


def test_the_cache_is_private_and_holds_no_leftovers(tmp_path: Path) -> None:
    kernels.load("detect", 87, tmp_path / "cache", Counting())
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".cubin"]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [87, 90, 110])
@pytest.mark.parametrize("kernel", kernels.KERNELS)
def test_every_kernel_compiles_for_every_board(kernel: str, architecture: int) -> None:
    compiler = nvcc()
    image = compiler.compile(kernels.source_of(kernel), f"{kernel}.cu", architecture)
    assert image.startswith(b"\x7fELF")


def test_a_kernel_that_does_not_compile_names_the_first_error() -> None:
    compiler = nvcc()
    with pytest.raises(CudaError, match=r'broken\.cu.*"nosuch" is undefined') as caught:
        compiler.compile(BROKEN, "broken.cu", 90)
    assert not caught.value.fatal
    assert caught.value.hint


def test_nvrtc_names_the_first_error_as_well() -> None:
    try:
        compiler = kernels.Nvrtc()
    except CudaError as error:
        pytest.skip(error.message)
    with pytest.raises(CudaError, match=r'broken\.cu.*"nosuch" is undefined'):
        compiler.compile(BROKEN, "broken.cu", 90)


def test_the_first_error_is_found_in_a_log() -> None:
    log = "a.cu(1): warning: unused\n\na.cu(2): error: no\na.cu(3): error: never"
    assert first_error(log) == "a.cu(2): error: no"
    assert first_error("\n  something odd\n") == "something odd"
    assert first_error("") == "no log"


def test_the_command_fills_the_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kernel in kernels.KERNELS:
        kernels.load(kernel, 87, tmp_path, Counting())
    kernels.main(["--cache", str(tmp_path), "--architecture", "87"])
    assert capsys.readouterr().out.splitlines()[0].startswith("preprocess: sm_87, ")
