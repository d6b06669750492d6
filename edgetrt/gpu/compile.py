"""Kernels from source to machine code of one GPU, cached by architecture and source.

    python -m edgetrt.gpu.compile --cache DIR [--architecture 87]

fills the cache at install time; without a cache entry the same happens when a device first needs it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Protocol

from edgetrt.errors import CudaError
from edgetrt.gpu import bindings
from edgetrt.gpu.status import cuda_error

KERNELS = ("preprocess", "detect")
"""Sources in `kernels/`."""

_DIGEST = 32
_NVCC_DIRS = ("/usr/local/cuda/bin",)


class Compiler(Protocol):
    """What turns CUDA C++ into a cubin."""

    @property
    def name(self) -> str:
        """Name and version; part of the cache's key."""

    def compile(self, source: str, name: str, architecture: int) -> bytes:
        """Compile for `sm_<architecture>`.

        Raises:
            CudaError: with the first error of the compiler's log.
        """


def source_of(kernel: str) -> str:
    """Text of one of `KERNELS`."""
    return (Path(__file__).parent / "kernels" / f"{kernel}.cu").read_text(encoding="utf-8")


def load(kernel: str, architecture: int, cache: Path, compiler: Compiler | None = None) -> bytes:
    """Machine code of a kernel file, from the cache or freshly compiled into it.

    Args:
        kernel: one of `KERNELS`.
        architecture: 87 for compute capability 8.7.
        cache: folder; made when missing, private to this user.
        compiler: found on this machine when not given, and only when the cache has no entry.

    Raises:
        CudaError: no compiler, or it refuses the source.
    """
    source = source_of(kernel)
    key = hashlib.sha256(f"{architecture}\n{source}".encode()).hexdigest()[:24]
    entry = cache / f"{kernel}-sm{architecture}-{key}.cubin"
    image = _read(entry)
    if image is None:
        image = (compiler or find_compiler()).compile(source, f"{kernel}.cu", architecture)
        _write(entry, image)
    return image


def find_compiler() -> Compiler:
    """NVRTC if cuda-python and its library are here, else nvcc.

    Raises:
        CudaError: neither is.
    """
    try:
        return Nvrtc()
    except CudaError as error:
        missing = error.message
    paths = os.pathsep.join((os.environ.get("PATH", ""), *_NVCC_DIRS))
    nvcc = shutil.which("nvcc", path=paths)
    if nvcc is not None:
        return Nvcc(nvcc)
    raise CudaError(
        f"no CUDA compiler: {missing}; nvcc is not on PATH nor in {', '.join(_NVCC_DIRS)}",
        "Install `cuda-nvrtc` or `cuda-nvcc` of the board's CUDA; without one, preprocessing runs"
        " as a small engine or on the CPU.",
    )


class Nvrtc:
    """CUDA's run-time compiler through cuda-python.

    Raises:
        CudaError: cuda-python or NVRTC's library is not here.
    """

    def __init__(self) -> None:
        self._rtc = bindings.load("nvrtc")
        major, minor = bindings.call("asking for NVRTC", self._rtc.nvrtcVersion)
        self.name = f"nvrtc {major}.{minor}"

    def compile(self, source: str, name: str, architecture: int) -> bytes:
        """Compile for `sm_<architecture>`."""
        rtc = self._rtc
        program = bindings.call(
            f"reading {name}",
            rtc.nvrtcCreateProgram,
            source.encode(),
            name.encode(),
            0,
            [],
            [],
        )
        try:
            options = [f"--gpu-architecture=sm_{architecture}".encode(), b"--std=c++14"]
            (status,) = rtc.nvrtcCompileProgram(program, len(options), options)
            if status:
                raise _refused(name, architecture, self._log(program) or status.name)
            size = bindings.call(f"compiling {name}", rtc.nvrtcGetCUBINSize, program)
            image = bytearray(size)
            bindings.call(f"compiling {name}", rtc.nvrtcGetCUBIN, program, image)
            return bytes(image)
        finally:
            rtc.nvrtcDestroyProgram(program)

    def _log(self, program: object) -> str:
        size = bindings.call("reading NVRTC's log", self._rtc.nvrtcGetProgramLogSize, program)
        log = bytearray(size)
        bindings.call("reading NVRTC's log", self._rtc.nvrtcGetProgramLog, program, log)
        return log.rstrip(b"\0").decode(errors="replace")


class Nvcc:
    """The toolkit's compiler driver; needs a host C++ compiler as well."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.name = f"nvcc {path}"

    def compile(self, source: str, name: str, architecture: int) -> bytes:
        """Compile for `sm_<architecture>`."""
        with tempfile.TemporaryDirectory(prefix="edgetrt-") as folder:
            text, image = Path(folder, name), Path(folder, "out.cubin")
            text.write_text(source, encoding="utf-8")
            command = [
                self._path,
                "-cubin",
                f"-arch=sm_{architecture}",
                "-std=c++14",
                "-o",
                str(image),
                str(text),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
            if done.returncode:
                raise _refused(name, architecture, (done.stderr + done.stdout).replace(folder, ""))
            return image.read_bytes()


def first_error(log: str) -> str:
    """Pick the line of a compiler's log that says what is wrong."""
    lines = [line.strip().lstrip("/") for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\b(error|fatal)\b", line, re.IGNORECASE)]
    return (errors or lines or ["no log"])[0]


def _refused(name: str, architecture: int, log: str) -> CudaError:
    error = cuda_error(f"compiling {name} for sm_{architecture}", "NVRTC_ERROR_COMPILATION")
    return CudaError(
        f"{error.message}: {first_error(log)}",
        "A toolkit older than this GPU cannot compile for it; use the one of the board's JetPack.",
        error.status,
    )


def _read(entry: Path) -> bytes | None:
    """Give a cached image; None when there is none or its bytes are not the ones written."""
    try:
        data = entry.read_bytes()
    except FileNotFoundError:
        return None
    digest, image = data[:_DIGEST], data[_DIGEST:]
    return image if image and hashlib.sha256(image).digest() == digest else None


def _write(entry: Path, image: bytes) -> None:
    """Put an image into the cache, whole or not at all."""
    entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=entry.parent, prefix=f".{entry.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(image).digest() + image)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(entry)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def main(arguments: list[str] | None = None) -> None:
    """Fill the cache for one architecture, by default this machine's GPU's."""
    parser = argparse.ArgumentParser(prog="python -m edgetrt.gpu.compile", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--architecture", type=int, help="87 for Orin, 110 for Thor")
    given = parser.parse_args(arguments)
    architecture = given.architecture or _here()
    for kernel in KERNELS:
        size = len(load(kernel, architecture, given.cache))
        print(f"{kernel}: sm_{architecture}, {size} bytes")


def _here() -> int:
    from edgetrt.gpu.device import open_device

    device = open_device()
    major, minor = device.info.compute_capability
    device.close()
    return major * 10 + minor


if __name__ == "__main__":
    main()
