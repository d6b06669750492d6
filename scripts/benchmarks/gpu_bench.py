"""What the parts of the GPU benchmark share: where figures go, and what an engine under test is."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edgetrt.app.networks import filter_head
from edgetrt.backends.device_session import Execution, SessionOptions
from edgetrt.errors import EdgetrtError
from edgetrt.ports import Device, Module
from scripts.benchmarks import gpu_loops
from scripts.benchmarks.figures import Figure
from scripts.benchmarks.gpu_loops import Decode, Lane


@dataclass(frozen=True)
class Network:
    """An engine to measure, with frames for it and a reader of its answers.

    `head` names the output that the GPU may filter, and the score.
    """

    name: str
    open: Callable[[], Execution]
    size: tuple[int, int]
    decode: Decode
    head: tuple[str, float] | None = None


@dataclass
class Bench:
    """What is measured on, and what was found."""

    device: Device
    library: str
    module: Module
    detect: Module
    figures: list[Figure] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def lane(
        self,
        network: Network,
        options: SessionOptions | None = None,
        *,
        filtered: bool = False,
    ) -> Lane:
        """A session of the network, with the GPU's fused pass before it; `filtered`: its head is as well."""
        lane = gpu_loops.lane(self.device, self.module, network.open(), options)
        if filtered and network.head is not None:
            filter_head(self.device, self.detect, lane.session, *network.head)
        return lane

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
