"""A machine for the tests of the flow: it builds by copying and runs on ONNX Runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from edgetrt.backends.onnxruntime import OnnxRuntimeBackend
from edgetrt.engine.accuracy import Gate
from edgetrt.engine.bench import Figures, summarize
from edgetrt.engine.fingerprint import Toolchain
from edgetrt.engine.report import Compared
from edgetrt.engine.spec import BuildSpec
from edgetrt.engine.toolset import Product
from edgetrt.errors import EngineBuildError
from edgetrt.model.frames import Frames, spool
from edgetrt.model.quantize import TENSORRT
from edgetrt.ports import Session
from edgetrt.types import DeviceIdentity, TensorSpec
from tests.model import networks


class FakeToolset:
    """A machine that gets things wrong when told to.

    Args:
        frames: how many the user has.
        spoils: precisions whose engines come out wrong.
        breaks: precisions that cannot be built.
        runs: false where nothing can be loaded.
    """

    backend = "fake"
    toolchain = Toolchain("tensorrt", "10.3.0")
    device = DeviceIdentity("a board")
    style = TENSORRT
    simulate = True

    def __init__(
        self,
        frames: int = 4,
        spoils: tuple[str, ...] = (),
        breaks: tuple[str, ...] = (),
        runs: bool = True,
    ) -> None:
        self.count, self.spoils, self.breaks, self.runs = frames, spoils, breaks, runs
        self.built: list[BuildSpec] = []
        self.open = 0

    def frames_digest(self) -> str:
        return str(self.count)

    def frames_bytes(self) -> int:
        return self.count * 3072

    def frames(self, folder: Path, say: Callable[[float], None]) -> Frames | None:
        place = folder / "frames"
        place.mkdir()
        spec = TensorSpec("x", (1, 3, 16, 16), "float32")
        return spool(networks.images(self.count), (spec,), place) if self.count else None

    def gate(self) -> Gate:
        return Gate("raw", 0.01)

    def time_ms(self, network: Path) -> float | None:
        return None

    def build(
        self, spec: BuildSpec, plain: Path, folder: Path, say: Callable[[str, float | None], None]
    ) -> Product:
        say("building", 0.5)
        self.built.append(spec)
        if spec.precision in self.breaks:
            raise EngineBuildError("the builder crashed")
        path = folder / "engine.plan.onnx"
        if spec.precision in self.spoils:
            networks.save(networks.detector(seed=99), path)
        else:
            shutil.copyfile(spec.onnx, path)
        return Product(path, spec.onnx, warnings=("the builder said so",))

    def compare(self, expected: Mapping[str, str], product: Product) -> Compared | None:
        return Compared(
            source="log", agreed=1, compared=2, differing=["a: DLA, built GPU"], missing=[]
        )

    def load(self, engine: Path) -> Session | None:
        return OnnxRuntimeBackend().load(engine) if self.runs else None

    def figures(self, session: Session) -> Figures:
        return summarize([1_000_000] * 20, 0.02)

    def waterfall_ms(self, load: Callable[[], Session]) -> dict[str, float]:
        session = load()
        session.close()
        return {"read": 1.0}
