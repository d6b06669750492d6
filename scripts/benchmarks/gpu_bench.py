"""What the parts of the GPU benchmark share: where figures go, and what an engine under test is."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edgetrt.backends.device_session import Execution
from edgetrt.errors import EdgetrtError
from edgetrt.ports import Device, Module
from scripts.benchmarks.figures import Figure
from scripts.benchmarks.gpu_loops import Decode


@dataclass(frozen=True)
class Network:
    """An engine to measure, with frames for it and a reader of its answers."""

    name: str
    open: Callable[[], Execution]
    size: tuple[int, int]
    decode: Decode


@dataclass
class Bench:
    """What is measured on, and what was found."""

    device: Device
    library: str
    module: Module
    figures: list[Figure] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, name: str, value: float | None, unit: str = "", **more: Any) -> None:
        """Note a figure, and show it at once."""
        self.figures.append(Figure(name, value, unit, **more))
        told = "-" if value is None else f"{value:.4f}"
        print(f"{name}: {told} {unit}", file=sys.stderr, flush=True)

    def section(self, name: str, run: Callable[[Bench], None]) -> None:
        """Run a part; what fails is noted, and the next part runs."""
        start = time.perf_counter()
        self.device.push()
        try:
            run(self)
        except (EdgetrtError, RuntimeError, ImportError, ValueError) as error:
            traceback.print_exc()
            self.problems.append(f"{name}: {type(error).__name__}: {error}")
        finally:
            self.device.pop()
        print(f"-- {name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
