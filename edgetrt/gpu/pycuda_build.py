"""PyCUDA from its source, made by this device's own compilers: nobody offers it ready-made for one."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgetrt.errors import BackendError

VERSION = "2026.1"
SHA256 = "759516160628ba06f32ce7e563e3f5b9214691dc9528a03ea99ea1073f4e14ba"
"""Of `pycuda-VERSION.tar.gz`."""

NEEDED_BYTES = 1_000_000_000
"""Source, objects and what comes out of them; the objects are most of it."""

Say = Callable[[str, str, "float | None"], None]
"""Told a step, what it is doing, and how far it is (0 to 1) where that is known."""


@dataclass(frozen=True)
class Check:
    """One thing that building needs.

    Attributes:
        name: of it.
        found: what is here; empty where it is missing.
        fix: how to get it.
    """

    name: str
    found: str
    fix: str


def library_folder() -> Path:
    """Where this installation of edgetrt looks for libraries made on the device."""
    return Path(os.environ.get("EDGETRT_LIBRARIES") or sysconfig.get_path("platlib"))


def find_cuda(chosen: Path | None = None) -> Path | None:
    """CUDA's folder: the one named, the environment's, the usual one, or the one around `nvcc`."""
    if chosen is not None:
        return chosen
    named = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    if Path(named, "bin", "nvcc").exists():
        return Path(named)
    nvcc = shutil.which("nvcc")
    return Path(nvcc).resolve().parent.parent if nvcc else None


def driver_folders(cuda: Path) -> list[Path]:
    """Where the driver's library, or a stub of it to link against, may be."""
    machine = f"/usr/lib/{os.uname().machine}-linux-gnu"
    inside = [cuda / "lib64", cuda / "lib", cuda / f"targets/{os.uname().machine}-linux/lib"]
    stubs = [folder / "stubs" for folder in inside]
    return [*stubs, *inside, Path(machine, "nvidia"), Path(machine, "tegra"), Path(machine)]


def examine(cuda: Path | None, work: Path, to: Path, fetching: bool = True) -> list[Check]:
    """What building needs, and whether it is here."""
    toolkit = (
        "Install CUDA's compiler and headers (JetPack: `cuda-toolkit`), or name its folder: --cuda."
    )
    drivers = [
        folder for folder in driver_folders(cuda or Path()) if (folder / "libcuda.so").exists()
    ]
    python_h = Path(sysconfig.get_path("include"), "Python.h")
    compiler = shutil.which("c++") or shutil.which("g++")
    checks = [
        Check("nvcc", _nvcc(cuda), toolkit),
        Check("CUDA's headers", _existing(cuda and cuda / "include/cuda.h"), toolkit),
        Check("CUDA's driver library", str(drivers[0]) if cuda and drivers else "", toolkit),
        Check("C++ compiler", compiler or "", "Install one: sudo apt install g++"),
        Check("Python's headers", _existing(python_h), "sudo apt install python3-dev"),
        Check("numpy's headers", _numpy(), "sudo apt install python3-numpy-dev or python3-numpy"),
        Check("setuptools", _module("setuptools"), "sudo apt install python3-setuptools"),
        Check("space", _space(work), f"Free {NEEDED_BYTES // 10**6} MB, or set TMPDIR."),
        Check("folder", _writable(to), "Run it with sudo, or name a folder of yours: --to."),
    ]
    if fetching:
        fix = f"sudo apt install python3-pip, or give pycuda-{VERSION}.tar.gz with --archive."
        checks.append(Check("pip", _module("pip"), fix))
    return checks


def _existing(path: Path | None) -> str:
    return str(path) if path is not None and path.exists() else ""


def _module(name: str) -> str:
    return name if importlib.util.find_spec(name) else ""


def _nvcc(cuda: Path | None) -> str:
    """Its release, when it runs."""
    if cuda is None:
        return ""
    try:
        done = subprocess.run(
            [cuda / "bin/nvcc", "--version"], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    release = re.search(r"release ([\d.]+)", done.stdout)
    return release[0] if release else ""


def _numpy() -> str:
    try:
        import numpy as np
    except ImportError:
        return ""
    return _existing(Path(np.get_include(), "numpy/arrayobject.h"))


def _space(work: Path) -> str:
    free = shutil.disk_usage(work).free
    return f"{free // 10**6} MB" if free >= NEEDED_BYTES else ""


def _writable(to: Path) -> str:
    there = next(folder for folder in (to, *to.parents) if folder.exists())
    return str(to) if os.access(there, os.W_OK) else ""


def fetch(into: Path) -> Path:
    """Fetch the source archive from the package index that pip is set up for.

    Raises:
        BackendError: pip could not, or what came is another file.
    """
    pins = into / "pycuda.txt"
    pins.write_text(f"pycuda=={VERSION} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary=:all:", "--no-build-isolation", "--require-hashes"]
    _watch([*command, "--dest", str(into), "--requirement", str(pins)], into, "fetching PyCUDA")
    return into / f"pycuda-{VERSION}.tar.gz"


def unpack(archive: Path, into: Path, sha256: str = SHA256) -> Path:
    """Unpack the source; returns its folder.

    Raises:
        BackendError: it cannot be read, or it is another file.
    """
    try:
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    except OSError as error:
        raise BackendError(f"{archive}: cannot be read: {error.strerror}") from error
    if digest != sha256:
        raise BackendError(
            f"{archive} is not PyCUDA {VERSION}: its SHA-256 is {digest}, expected {sha256}",
            f"Get pycuda-{VERSION}.tar.gz, as its makers published it.",
        )
    subprocess.run(["tar", "-xzf", archive, "-C", into], check=True)
    return next(folder for folder in into.iterdir() if (folder / "setup.py").exists())


def build(source: Path, cuda: Path, say: Say) -> Path:
    """Compile the source; returns the folder that holds the package.

    Raises:
        BackendError: the compiler or the linker refused; the message has their first complaint.
    """
    folders = [str(folder) for folder in driver_folders(cuda) if folder.exists()]
    settings = {
        "CUDA_ROOT": str(cuda),
        "CUDA_INC_DIR": [str(cuda / "include")],
        "CUDADRV_LIB_DIR": folders,
        "CUDA_ENABLE_CURAND": False,
    }
    lines = (f"{name} = {value!r}\n" for name, value in settings.items())
    (source / "siteconf.py").write_text("".join(lines))
    files = [path for path in source.rglob("*.cpp") if "win32" not in path.parts]
    begun: list[str] = []

    def follow(line: str) -> None:
        if compiled := re.search(r"-c (\S+\.cpp)", line):
            begun.append(compiled[1])
            # Some files of the archive are for other systems.
            say("compile", Path(compiled[1]).name, min(1.0, len(begun) / max(1, len(files))))

    built = source / "built"
    command = [sys.executable, "setup.py", "build", "--build-lib", str(built)]
    _watch(command, source, f"building PyCUDA {VERSION}", follow)
    return built / "pycuda"


def install(built: Path, to: Path) -> None:
    """Put the package into a folder, in place of an older one.

    Raises:
        BackendError: the folder cannot be written.
    """
    new, old = to / "pycuda.new", to / "pycuda"
    try:
        to.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(built, new)
        shutil.rmtree(old, ignore_errors=True)
        new.rename(old)
    except OSError as error:
        raise BackendError(f"{to}: cannot be written: {error.strerror}") from error


def try_out(to: Path) -> str:
    """Start it in a process of its own; returns the CUDA version of the driver.

    Raises:
        BackendError: it does not start.
    """
    code = "import pycuda.driver as d; d.init(); v = d.get_driver_version(); "
    code += "print(f'{v // 1000}.{v % 1000 // 10}')"
    said: list[str] = []
    _watch(
        [sys.executable, "-c", code], to, "trying PyCUDA out", said.append, {"PYTHONPATH": str(to)}
    )
    return said[-1] if said else ""


def _watch(
    command: Sequence[str],
    folder: Path,
    what: str,
    follow: Callable[[str], None] = lambda _: None,
    more: dict[str, str] | None = None,
) -> None:
    """Run a command line by line; nothing of the package's own path gets into it."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    last: deque[str] = deque(maxlen=200)
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**environment, **(more or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in map(str.strip, process.stdout or ()):
            last.append(line)
            follow(line)
    if process.returncode:
        complaint = next((line for line in last if re.search(r"error|Error", line)), "")
        said = complaint or (last[-1] if last else "no output")
        raise BackendError(
            f"{what} failed with status {process.returncode}: {said}",
            "The output ends: " + " | ".join(list(last)[-5:]) if last else "",
        )
