"""`nvmm.c`, compiled: buffers as NVIDIA's library and driver show them, and how to make those fail."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetrt.gpu.egl import EglDriver
from edgetrt.sources.nvbufsurface import NAMES, Library, Params, load
from edgetrt.sources.surfaces import Lender, NvmmSurface
from edgetrt.types import Frame

SOURCE = Path(__file__).with_suffix(".c")
NV12, BLOCK_LINEAR = 6, 1


class Buffer:
    """One buffer of a camera's pool."""

    def __init__(self, code: ctypes.CDLL, size: int, handle: int) -> None:
        self._code, self.handle = code, handle
        self.raw = ctypes.string_at(handle, size)

    @property
    def params(self) -> Params:
        """The camera's own description."""
        return Params.from_address(self._code.standin_params(self.handle))

    def fill(self, picture: NDArray[np.uint8]) -> None:
        """Let the hardware write a picture, as a frame's array has it."""
        rows, height = picture.reshape(len(picture), -1), int(self.params.height)
        for at, row in enumerate(rows):
            plane, line = (0, at) if at < height else (1, at - height)
            self._code.standin_write(self.handle, plane, line, row.tobytes(), row.size)

    def free(self) -> None:
        """Take it down."""
        self._code.standin_free(self.handle)

    @property
    def untouched(self) -> bool:
        return bool(self._code.standin_untouched(self.handle))


class Nvmm:
    """The stand-in; `names` finds it."""

    def __init__(self, path: Path) -> None:
        self.names = (str(path),)
        self.code = code = ctypes.CDLL(str(path))
        code.standin_make.restype = code.standin_params.restype = ctypes.c_void_p
        code.standin_params.argtypes = code.standin_free.argtypes = (ctypes.c_void_p,)
        code.standin_untouched.argtypes = (ctypes.c_void_p,)
        number = ctypes.c_int
        code.standin_write.argtypes = (ctypes.c_void_p, number, number, ctypes.c_char_p, number)
        self.library, self.driver = Library(self.names), EglDriver(self.names[0])
        self.reset()

    def reset(self) -> None:
        self.code.standin_reset()
        self.lender = self.opened()

    def offset(self, of: str) -> int:
        return int(self.code.standin_offset(of.encode()))

    def make(
        self,
        width: int,
        height: int,
        form: int = NV12,
        layout: int = 0,
        memory: int = 4,
        batch: int = 1,
    ) -> Buffer:
        handle = self.code.standin_make(width, height, form, layout, memory, batch)
        return Buffer(self.code, self.offset("Surface"), handle)

    def lend(
        self, buffer: Buffer, lender: Lender | None = None, sample: object = None
    ) -> NvmmSurface:
        """A picture, as a source hands it on; of the same opening unless another lender does."""
        return (lender or self.lender)(buffer.raw, sample)

    def frame(self, buffer: Buffer, lender: Lender | None = None, sample: object = None) -> Frame:
        surface = self.lend(buffer, lender, sample)
        return Frame(surface, surface.format, 0, 0)

    def opened(self) -> Lender:
        """The camera, opened anew."""
        return Lender("camera", self.library)

    def refuse(self, call: str, after: int = 0, status: int = 304) -> None:
        self.code.standin_refuse(call.encode(), after, status)

    def tell(self, field: str, value: int) -> None:
        """Let CUDA say something else of its frames."""
        self.code.standin_tell(self.offset(f"EglFrame.{field}"), value)

    def counts(self) -> dict[str, int]:
        """What is open, and what was done in the wrong order; all 0 when nothing is left."""
        names = ("mapped", "images", "resources", "wrong")
        found = {name: self.code.standin_count(name.encode()) for name in names}
        return {name: count for name, count in found.items() if count}

    @property
    def registrations(self) -> int:
        """How often CUDA registered an image."""
        return int(self.code.standin_count(b"registrations"))


def build(folder: Path, *options: str, soname: str = "") -> Nvmm:
    """Compile it; skips where there is no compiler."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    path = folder / "nvmm.so"
    linked = [f"-Wl,-soname,{soname}"] if soname else []
    command = ["gcc", "-O1", "-shared", "-fPIC", *options, *linked, "-o", str(path), str(SOURCE)]
    subprocess.run(command, check=True, timeout=60)
    return Nvmm(path)


@lru_cache(maxsize=1)
def loaded() -> Nvmm:
    """Build the one that is found by its name from here on, as the real one is once a plug-in has loaded it.

    It stays for the process: a second one of that name would not be found.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = build(Path(folder), soname=NAMES[0])
    load.cache_clear()
    return made
