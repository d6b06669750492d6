"""What a deployment asks of the machine it runs on; the flow is `deploy`, the adapters are made outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edgetrt.engine.accuracy import Gate
    from edgetrt.engine.bench import Figures
    from edgetrt.engine.fingerprint import Toolchain
    from edgetrt.engine.report import Compared
    from edgetrt.engine.spec import BuildSpec
    from edgetrt.model.frames import Frames
    from edgetrt.model.quantize import Style
    from edgetrt.ports import Session
    from edgetrt.types import BuiltLayer, DeviceIdentity

SEARCH_S = 30.0
"""How long the search for layers that INT8 hurts may take."""

BENCH_S = 2.0
"""How long the finished engine is measured."""


class Say(Protocol):
    """Told the step, what it is doing, and how far it is (0..1) where that is known."""

    def __call__(self, step: str, what: str = "", fraction: float | None = None) -> None:
        """Take a note."""


@dataclass(frozen=True)
class Product:
    """A built engine.

    Attributes:
        path: the file that a backend loads.
        network: the network it was made from; the same file where nothing is compiled ahead.
        extra: more files that belong to it, by the name under which the others look for them.
        layers: where the builder put them; empty where it does not tell.
        source: who told; see `edgetrt.engine.events.Built`.
        warnings: what the builder said.
    """

    path: Path
    network: Path
    extra: Mapping[str, Path] = field(default_factory=dict)
    layers: tuple[BuiltLayer, ...] = ()
    source: str = "none"
    warnings: tuple[str, ...] = ()


class Toolset(Protocol):
    """One backend on this machine, with the user's frames.

    Attributes:
        backend: its name.
        toolchain: library and version.
        device: this machine.
        style: of INT8, as the backend takes it.
        simulate: judge INT8 networks in TensorRT's arithmetic; False where this CPU runs them itself.
    """

    backend: str
    toolchain: Toolchain
    device: DeviceIdentity
    style: Style
    simulate: bool

    def frames_digest(self) -> str:
        """Name the user's frames; empty when there are none."""

    def frames_bytes(self) -> int:
        """How much disk `frames` takes at most."""

    def frames(self, folder: Path, say: Callable[[float], None]) -> Frames | None:
        """Preprocess the user's frames and keep them in `folder`; None when there are none."""

    def gate(self) -> Gate:
        """How the task is judged."""

    def time_ms(self, network: Path) -> float | None:
        """Median time of one inference of a network here; None where only a built engine runs."""

    def build(
        self, spec: BuildSpec, plain: Path, folder: Path, say: Callable[[str, float | None], None]
    ) -> Product:
        """Make the engine; `plain` is the network before any precision was written into it."""

    def compare(self, expected: Mapping[str, str], product: Product) -> Compared | None:
        """Score a static placement, `DLA` or `GPU` by node, against the builder's own."""

    def load(self, engine: Path) -> Session | None:
        """Load it; None where engines can be built and not run."""

    def figures(self, session: Session) -> Figures:
        """Measure it."""

    def waterfall_ms(self, load: Callable[[], Session]) -> dict[str, float]:
        """Median time of each stage of a frame from the user's source, with a session that `load` gives."""
