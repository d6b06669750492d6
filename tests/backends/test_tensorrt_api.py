from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from edgetrt.backends.tensorrt_api import (
    Library,
    absent,
    explain,
    installed,
    load,
    probe,
    toolchain,
)
from edgetrt.engine.fingerprint import Toolchain
from edgetrt.errors import BackendError
from tests.standins.tensorrt import make

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def importer(**found: ModuleType | Exception) -> Callable[[str], ModuleType]:
    """Imports what is given; other names are not found."""

    def import_module(name: str) -> ModuleType:
        module = found.get(name, ModuleNotFoundError(f"No module named {name!r}", name=name))
        if isinstance(module, Exception):
            raise module
        return module

    return import_module


def test_tensorrt_comes_before_rtx() -> None:
    both = importer(tensorrt=make("10.3.0"), tensorrt_rtx_bindings=make("11.4.0"))
    found = load(both)
    assert (found.flavour, found.version, found.rtx) == ("tensorrt", "10.3.0", False)
    assert found.numbers == (10, 3, 0)


def test_rtx_is_found_under_either_name() -> None:
    for name in ("tensorrt_rtx", "tensorrt_rtx_bindings"):
        assert load(importer(**{name: make("10.3.0")})).flavour == "tensorrt_rtx"


def test_rtx_is_used_where_tensorrt_is_broken() -> None:
    broken = ImportError("libnvinfer.so.10: cannot open shared object file")
    assert load(importer(tensorrt=broken, tensorrt_rtx=make("10.3.0"))).rtx


@pytest.mark.parametrize(
    ("text", "problem", "fix"),
    [
        (
            "libnvdla_compiler.so: cannot open shared object file: No such file or directory",
            "tensorrt needs libnvdla_compiler.so",
            "nvidia-l4t-dla-compiler",
        ),
        (
            "libnvinfer.so.10: cannot open shared object file: No such file or directory",
            "want libnvinfer.so.10",
            "libnvinfer10",
        ),
        ("libnvonnxparser.so.8: cannot open", "want libnvonnxparser.so.8", "libnvinfer8"),
        ("libcudart.so.12: cannot open", "needs libcudart.so.12", "--runtime nvidia"),
        (
            "/lib/aarch64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by x)",
            "want GLIBC_2.38",
            "pip uninstall",
        ),
        ("x.so: undefined symbol: getPluginRegistry", "symbol getPluginRegistry", "Keep one"),
        ("x.so: wrong ELF class: ELFCLASS32", "another processor", "for this machine"),
        ("something new", "cannot be imported: something new", "Install it again"),
    ],
)
def test_known_import_faults_have_a_fix(text: str, problem: str, fix: str) -> None:
    found = probe(importer(tensorrt=ImportError(text)))
    assert found.library is None
    assert problem in found.problem
    assert fix in found.fix
    with pytest.raises(BackendError) as caught:
        load(importer(tensorrt=ImportError(text)))
    assert (caught.value.message, caught.value.hint) == (found.problem, found.fix)
    assert explain("tensorrt", text) == (found.problem, found.fix)


def test_its_libraries_are_missing_as_a_module() -> None:
    error = ModuleNotFoundError("No module named 'tensorrt_libs'", name="tensorrt_libs")
    assert "tensorrt_libs" in probe(importer(tensorrt=error)).problem


def test_installed_for_another_python(tmp_path: Path) -> None:
    package = tmp_path / "usr/lib/python3.10/dist-packages/tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    assert installed(tmp_path) == ((3, 10),)
    problem, fix = absent(((3, 10),), (3, 12))
    assert problem == "TensorRT is installed for Python 3.10, this is Python 3.12"
    assert (
        fix
        == "Use the system's interpreter: /usr/bin/python3.10 -m venv --system-site-packages DIR"
    )
    problem, fix = absent(((3, 10),), (3, 10))
    assert "this environment cannot see it" in problem
    assert "--system-site-packages" in fix


def test_not_installed_at_all(tmp_path: Path) -> None:
    found = probe(importer(), tmp_path)
    assert "is not installed for Python" in found.problem
    assert "python3-libnvinfer" in found.fix


def test_a_module_of_that_name_that_is_not_it() -> None:
    assert "is not TensorRT" in probe(importer(tensorrt=ModuleType("tensorrt"))).problem


def test_too_old() -> None:
    old = make("8.6.1")
    old.__version__ = "8.2.1.8"
    found = probe(importer(tensorrt=old))
    assert found.problem == "TensorRT 8.2.1.8 is too old, expected 8.5 or newer"
    assert "JetPack 5.1" in found.fix


def test_toolchain_has_the_version_of_cuda(tmp_path: Path) -> None:
    folder = tmp_path / "usr/local/cuda"
    folder.mkdir(parents=True)
    (folder / "version.json").write_text('{"cuda": {"name": "CUDA SDK", "version": "12.6.68"}}')
    trt, rtx = (Library(None, kind, "10.3.0") for kind in ("tensorrt", "tensorrt_rtx"))  # type: ignore[arg-type]
    assert toolchain(trt, tmp_path) == Toolchain("tensorrt", "10.3.0", "12.6.68")
    assert toolchain(rtx, tmp_path) == Toolchain("tensorrt_rtx", "10.3.0", None)
    for broken in ("{", "[]", '{"cuda": 5}'):
        (folder / "version.json").write_text(broken)
        assert toolchain(trt, tmp_path).cuda is None
    assert toolchain(trt, tmp_path / "none").cuda is None
