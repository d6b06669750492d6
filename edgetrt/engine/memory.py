"""How much memory a build may use, and the watch that stops it before the kernel does.

On a Jetson the GPU uses the same memory as everything else: a build that takes too much ends in the
kernel killing some process, perhaps not the build.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetrt.engine.spec import Pool

MIB = 1 << 20
_TOTAL = re.compile(r"^MemTotal:\s+(\d+) kB$", re.MULTILINE)
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)
_OOM_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
_SAYS_SO = re.compile(
    r"out of memory|OutOfMemory|NvMapMemAlloc.* error 12|cudaErrorMemoryAllocation"
    r"|Cuda failure: 2\b|MEM_ALLOC_FAILED|insufficient memory|std::bad_alloc",
    re.IGNORECASE,
)

# TensorRT's defaults for the DLA pools, upper bounds per loadable (NvInfer.h, MemoryPoolType).
_DLA_SRAM = 1 * MIB
_DLA_LOCAL = 1024 * MIB
_DLA_GLOBAL = 512 * MIB
_SMALLEST_POOL = 32 * MIB
_SMALLEST_WORKSPACE = 64 * MIB


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that can be had without swapping; None when the kernel does not say."""
    return _number(root / "proc/meminfo", _AVAILABLE, 1024)


def oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes the kernel has killed for memory since boot."""
    return _number(root / "proc/vmstat", _OOM_KILLS, 1)


def says_out_of_memory(text: str) -> bool:
    """True when a line of CUDA, TensorRT or the Jetson's memory driver says that memory ran out."""
    return _SAYS_SO.search(text) is not None


def floor_bytes(root: Path = Path("/")) -> int:
    """Below this much free memory a build is stopped: a sixteenth of all, 192 MiB to 1 GiB."""
    total = _number(root / "proc/meminfo", _TOTAL, 1024) or 0
    return min(max(total // 16, 192 * MIB), 1024 * MIB)


def plan_workspace(available: int | None) -> int | None:
    """Scratch memory for TensorRT: half of what is free; None (its own limit) when that is unknown.

    The other half is for the weights, the tactics under test and the plan itself.
    """
    return None if available is None else max(available // 2, _SMALLEST_WORKSPACE)


def plan_pools(available: int | None) -> dict[Pool, int]:
    """Limits of the DLA's pools: powers of two, TensorRT's own defaults at most."""
    if available is None:
        return {}
    return {
        "dla_managed_sram": _DLA_SRAM,
        "dla_local_dram": _power_of_two(available // 4, _DLA_LOCAL),
        "dla_global_dram": _power_of_two(available // 8, _DLA_GLOBAL),
    }


@dataclass
class MemoryGuard:
    """Watches the free memory from a thread and calls once when it falls below a floor.

    Attributes:
        read: gives the free bytes, or None when they cannot be read (then it only waits).
        floor: in bytes.
        on_low: called with what was free, from the guard's thread, at most once.
        interval_s: between two looks.
    """

    read: Callable[[], int | None]
    floor: int
    on_low: Callable[[int], None]
    interval_s: float = 0.2

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-guard", daemon=True)

    def __enter__(self) -> MemoryGuard:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            free = self.read()
            if free is not None and free < self.floor:
                self.on_low(free)
                return
            self._stop.wait(self.interval_s)


def _power_of_two(value: int, most: int) -> int:
    """Largest power of two that is at most `value`, inside the pool's useful range."""
    return min(max(1 << max(value.bit_length() - 1, 0), _SMALLEST_POOL), most)


def _number(path: Path, pattern: re.Pattern[str], unit: int) -> int | None:
    try:
        found = pattern.search(path.read_text(encoding="ascii", errors="replace"))
    except OSError:
        return None
    return int(found[1]) * unit if found else None
