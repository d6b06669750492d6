"""A `Compiler` for `FakeDevice`: the very kernels, built by the host's C++ compiler."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

HEADER = Path(__file__).with_name("host_kernels.h")
_KERNEL = re.compile(r'extern "C"\s+void\s+(\w+)\s*\(const Params')


class HostCompiler:
    """Builds a shared library with a function `launch_<kernel>(arguments, grid, block)` for each."""

    name = "host"

    def compile(self, source: str, name: str, architecture: int) -> bytes:
        text = f'#include "{HEADER}"\n{source}'
        with tempfile.TemporaryDirectory() as folder:
            code, library = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
            code.write_text(text)
            expanded = self._run("-E", "-P", str(code)).stdout
            for kernel in _KERNEL.findall(expanded):
                text += (
                    f'\nextern "C" void launch_{kernel}(const void *a, const int *g, const int *b)'
                    f" {{ run<void (*)(const Params), Params>({kernel}, a, g, b); }}"
                )
            code.write_text(text)
            self._run("-O1", "-shared", "-fPIC", "-o", str(library), str(code))
            return library.read_bytes()

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["g++", "-std=c++14", "-ffp-contract=off", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def available() -> bool:
    """True when this machine has a host compiler that knows half precision."""
    return shutil.which("g++") is not None
