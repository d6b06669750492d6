"""Finding TensorRT in this Python, and saying why it is not there.

This and `tensorrt_build` are the only modules that know TensorRT by name; both are given its module
as a value, so that a version without some attribute can stand in.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetrt.engine.fingerprint import Toolchain
from edgetrt.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgetrt.engine.plan import Flavour

MODULES: tuple[tuple[str, Flavour], ...] = (
    ("tensorrt", "tensorrt"),
    ("tensorrt_rtx", "tensorrt_rtx"),
    ("tensorrt_rtx_bindings", "tensorrt_rtx"),
)
OLDEST = (8, 5)
_DIST_PACKAGES = re.compile(r"python(\d)\.(\d+)/dist-packages")


@dataclass(frozen=True)
class Library:
    """TensorRT as it is here.

    Attributes:
        trt: its Python module.
        flavour: `tensorrt`, or `tensorrt_rtx` for desktop GPUs.
        version: as it says itself, `10.3.0`.
    """

    trt: Any
    flavour: Flavour
    version: str

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version's leading numbers, four at most."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:4])

    @property
    def rtx(self) -> bool:
        """True for TensorRT-RTX."""
        return self.flavour == "tensorrt_rtx"


@dataclass(frozen=True)
class Probe:
    """What a look for TensorRT found, for `edgetrt doctor`.

    Attributes:
        library: None when it cannot be used.
        problem: what is wrong, empty when nothing is.
        fix: what to do about it.
    """

    library: Library | None
    problem: str = ""
    fix: str = ""


def load(import_module: Callable[[str], Any] = importlib.import_module) -> Library:
    """Import TensorRT, or else TensorRT-RTX.

    Raises:
        BackendError: neither can be imported here, with the fix.
    """
    found = probe(import_module)
    if found.library is None:
        raise BackendError(found.problem, found.fix)
    return found.library


def probe(
    import_module: Callable[[str], Any] = importlib.import_module, root: Path = Path("/")
) -> Probe:
    """Look for TensorRT without raising.

    Args:
        import_module: imports a module by name.
        root: where installed bindings of other Pythons are looked for.
    """
    broken: Probe | None = None
    for name, flavour in MODULES:
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in {name, None}:
                broken = broken or Probe(None, *explain(name, str(error)))
            continue
        except (ImportError, OSError) as error:
            broken = broken or Probe(None, *explain(name, str(error)))
            continue
        version = getattr(module, "__version__", None)
        if not isinstance(version, str) or not hasattr(module, "Builder"):
            broken = broken or Probe(
                None,
                f"module {name!r} is not TensorRT: it has no Builder",
                f"Look which file shadows it: python3 -c 'import {name}; print({name}.__path__)'",
            )
            continue
        return _accept(Library(module, flavour, version))
    return broken or Probe(None, *absent(installed(root), sys.version_info[:2]))


def toolchain(library: Library, root: Path = Path("/")) -> Toolchain:
    """What makes the engines, for their fingerprint; RTX brings its own CUDA."""
    return Toolchain(library.flavour, library.version, None if library.rtx else cuda_version(root))


def cuda_version(root: Path = Path("/")) -> str | None:
    """Version of the installed CUDA toolkit, from the file that it puts beside itself."""
    try:
        told = json.loads((root / "usr/local/cuda/version.json").read_text(encoding="utf-8"))
        return str(told["cuda"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _accept(library: Library) -> Probe:
    """A library of a version that we know how to drive."""
    if not library.rtx and library.numbers[:2] < OLDEST:
        return Probe(
            None,
            f"TensorRT {library.version} is too old, expected 8.5 or newer",
            "Install JetPack 5.1 or newer; JetPack 4 is not supported.",
        )
    return Probe(library)


def installed(root: Path = Path("/")) -> tuple[tuple[int, int], ...]:
    """Python versions for which the system has TensorRT's bindings."""
    paths = (root / "usr/lib").glob("python3*/dist-packages/tensorrt/__init__.py")
    found = (_DIST_PACKAGES.search(path.as_posix()) for path in paths)
    return tuple(sorted((int(match[1]), int(match[2])) for match in found if match))


def absent(pythons: Sequence[tuple[int, int]], here: tuple[int, int]) -> tuple[str, str]:
    """Problem and fix when no module of the name is found."""
    mine = f"{here[0]}.{here[1]}"
    if here in pythons:
        return (
            f"TensorRT is installed for Python {mine}, and this environment cannot see it",
            "Make the environment with: python3 -m venv --system-site-packages DIR",
        )
    if pythons:
        theirs = ", ".join(f"{major}.{minor}" for major, minor in pythons)
        return (
            f"TensorRT is installed for Python {theirs}, this is Python {mine}",
            f"Use the system's interpreter: /usr/bin/python{theirs.split(', ')[-1]} -m venv"
            " --system-site-packages DIR",
        )
    return (
        f"TensorRT is not installed for Python {mine}",
        "On a Jetson: sudo apt install python3-libnvinfer. On a computer with a desktop GPU:"
        " pip install 'edgetrt[tensorrt-rtx]'. Without either the engine runs on ONNX Runtime.",
    )


_FAULTS: tuple[tuple[str, str, str], ...] = (
    (
        r"libnvdla_compiler\.so",
        "{module} needs libnvdla_compiler.so, which is not on this system",
        "sudo apt install nvidia-l4t-dla-compiler && sudo ldconfig; in a container mount"
        " /usr/lib/aarch64-linux-gnu/nvidia from the host. JetPack 7.2 and 7.2.1 do not have it.",
    ),
    (
        r"(libnv(?:infer|onnxparser|parsers)[a-z_]*\.so\.(\d+))",
        "{module}'s bindings want {0}, which is not on this system: bindings and libraries are of"
        " different versions",
        "Install the two together: sudo apt install --reinstall python3-libnvinfer libnvinfer{1}."
        " Remove a copy from pip: pip uninstall tensorrt tensorrt-bindings.",
    ),
    (
        r"(libcud(?:art|nn|la)[a-z_]*\.so[.\d]*)",
        "{module} needs {0}, which is not on this system",
        "Install JetPack's CUDA part (sudo apt install nvidia-jetpack), or run the container with"
        " --runtime nvidia.",
    ),
    (
        r"(GLIBC_[\d.]+|GLIBCXX_[\d.]+).* not found",
        "{module}'s bindings are built for a newer system: they want {0}",
        "Wheels from the package index are for servers, not for JetPack 6 and older: pip uninstall"
        " tensorrt, then use the system's (sudo apt install python3-libnvinfer).",
    ),
    (
        r"undefined symbol: (\S+)",
        "{module}'s bindings and libraries are of different versions: symbol {0} is missing",
        "Keep one of the two: pip uninstall tensorrt, or sudo apt install --reinstall"
        " python3-libnvinfer.",
    ),
    (
        r"(?i)(wrong ELF class|invalid ELF header|cannot open shared object file: Exec format)",
        "{module}'s bindings are for another processor: {0}",
        "Install the package for this machine: sudo apt install python3-libnvinfer.",
    ),
)


def explain(module: str, text: str) -> tuple[str, str]:
    """Problem and fix for an import that failed half-way."""
    for pattern, problem, fix in _FAULTS:
        if found := re.search(pattern, text):
            return problem.format(*found.groups(), module=module), fix.format(*found.groups())
    return (
        f"{module} is installed and cannot be imported: {text}",
        "Install it again: sudo apt install --reinstall python3-libnvinfer libnvinfer-bin.",
    )
