"""NVIDIA's bindings that edgetrt's package brings, one folder per major version of CUDA.

They are made for one major version of the driver each; the driver here says which is taken.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path


def driver_major() -> int | None:
    """The newest CUDA that this machine's driver speaks, its major version; None without a driver."""
    version = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return version.value // 1000 or None


def choose(places: list[str], driver: int | None) -> Path | None:
    """The folder of the bindings for `driver`, below the first of `places` that has any.

    A driver runs what was made for an older CUDA, so a newer driver gets the newest bindings there are.
    Without a driver it is the newest, too: they say best what is missing.
    """
    for place in places:
        found = {
            int(folder.name.removeprefix("cuda")): folder
            for folder in Path(place).glob("cuda[0-9][0-9]")
        }
        fitting = [major for major in found if driver is None or major <= driver]
        if fitting:
            return found[max(fitting)]
    return None


def offer() -> None:
    """Let `cuda.bindings` be found in the package's folder, after what is installed otherwise."""
    chosen = choose(sys.path, driver_major())
    if chosen is not None and str(chosen) not in sys.path:
        sys.path.append(str(chosen))
