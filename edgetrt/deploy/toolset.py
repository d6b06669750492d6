"""What `deploy` needs from this machine: backends that build and run, with the user's frames.

Composition like `app`; the flow itself is `edgetrt.engine.deploy`.
"""

from __future__ import annotations

import platform
import re
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgetrt import app
from edgetrt.boards.machine import device
from edgetrt.clock import SystemClock
from edgetrt.engine.bench import bench
from edgetrt.engine.fingerprint import Toolchain
from edgetrt.engine.report import NETWORK, Compared
from edgetrt.engine.toolset import Product
from edgetrt.errors import BackendError
from edgetrt.model import onnx_file
from edgetrt.model.calibration import translate
from edgetrt.model.quantize import TENSORRT, TENSORRT_8, cpu_style
from edgetrt.model.storage import read_skeleton, write_network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgetrt.backends.tensorrt import TensorRtBackend
    from edgetrt.backends.tensorrt_api import Library
    from edgetrt.deploy.sample_frames import SampleFrames
    from edgetrt.engine.accuracy import Gate
    from edgetrt.engine.bench import Figures
    from edgetrt.engine.spec import BuildSpec, Precision
    from edgetrt.model.frames import Frames
    from edgetrt.model.quantize import Style
    from edgetrt.ports import Backend, Session
    from edgetrt.runtime.reading import Reading
    from edgetrt.sources.uri import SourceUri

TRIAL_S = 0.4
"""How long each network is timed to choose among them."""
WATERFALL_FRAMES = 60


@dataclass(frozen=True)
class Materials:
    """What a toolset works with.

    Attributes:
        reading: how the network is read.
        footage: the user's frames; None when there are none.
        source: for the waterfall; None when there is none.
        bench_s: how long an engine is measured.
    """

    reading: Reading
    footage: SampleFrames | None
    source: SourceUri | None
    bench_s: float


class Workbench:
    """What is the same for every backend."""

    backend: str

    def __init__(self, materials: Materials) -> None:
        self.device = device()
        self._reading, self._footage = materials.reading, materials.footage
        self._source, self._bench_s = materials.source, materials.bench_s

    def frames_digest(self) -> str:
        """Name the user's frames; empty when there are none."""
        return self._footage.digest() if self._footage else ""

    def frames_bytes(self) -> int:
        """How much disk `frames` takes at most."""
        return self._footage.bytes() if self._footage else 0

    def frames(self, folder: Path, say: Callable[[float], None]) -> Frames | None:
        """Preprocess the user's frames."""
        return self._footage.spool(folder, say) if self._footage else None

    def gate(self) -> Gate:
        """How the task is judged."""
        return self._reading.gate()

    def figures(self, session: Session) -> Figures:
        """Measure the engine by itself."""
        return bench(session, self._bench_s, SystemClock())

    def waterfall_ms(self, load: Callable[[], Session]) -> dict[str, float]:
        """Run the whole pipeline over the user's source for a moment; median of each stage."""
        if self._source is None:
            return {}
        uri = self._source
        supervisor = app.join(
            "bench",
            lambda: app.open_source(uri),
            lambda: self._reading.network(load(), "bench", self.backend, depth=1),
        )
        supervisor.run_once(threading.Event(), WATERFALL_FRAMES)
        health = supervisor.meter.health()
        return {name: stats.p50_ms for name, stats in health.stages.items()}


class CpuToolset(Workbench):
    """ONNX Runtime or OpenVINO: the engine is the network's file itself.

    Args:
        backend: what runs it.
        threads: of the backend.
        materials: what it works with.
    """

    simulate = False

    def __init__(self, backend: Backend, threads: int, materials: Materials) -> None:
        super().__init__(materials)
        self.backend, self._backend, self._threads = backend.name, backend, threads
        self.toolchain = Toolchain(backend.name, backend.version)
        self.style: Style = cpu_style(platform.machine(), _cpu_flags())

    def time_ms(self, network: Path) -> float | None:
        """Median time of one inference of a network."""
        session = self.load(network)
        try:
            return bench(session, min(TRIAL_S, self._bench_s), SystemClock()).latency_ms.median
        finally:
            session.close()

    def build(
        self, spec: BuildSpec, plain: Path, folder: Path, say: Callable[[str, float | None], None]
    ) -> Product:
        """Nothing is compiled ahead: the network is the engine."""
        say("copying the network", None)
        path, extra = own_copy(spec.onnx, folder)
        return Product(path, path, extra)

    def compare(self, expected: Mapping[str, str], product: Product) -> Compared | None:
        """There is no builder to compare with."""
        return None

    def load(self, engine: Path) -> Session:
        """Load a network's file."""
        return self._backend.load(engine, self._threads, self._reading.shapes)


class TensorRtToolset(Workbench):
    """TensorRT or TensorRT-RTX: plans, built in a process of their own.

    Args:
        library: TensorRT as it is here.
        backend: runs plans; None where there is no GPU.
        materials: what it works with.
    """

    backend = "tensorrt"
    simulate = True

    def __init__(
        self,
        library: Library,
        backend: TensorRtBackend | None,
        materials: Materials,
    ) -> None:
        from edgetrt.backends import tensorrt_api

        super().__init__(materials)
        self._library, self._backend = library, backend
        self.toolchain = tensorrt_api.toolchain(library)
        before_10 = not library.rtx and library.numbers[0] < 10
        self.style: Style = TENSORRT_8 if before_10 else TENSORRT

    def time_ms(self, network: Path) -> float | None:
        """Only a built engine can be timed."""
        return None

    def build(
        self, spec: BuildSpec, plain: Path, folder: Path, say: Callable[[str, float | None], None]
    ) -> Product:
        """Build a plan; what it computes in is said as this version and device take it."""
        from edgetrt.engine.build import build

        if spec.dla is not None and hasattr(self._library.trt.BuilderFlag, "FP16"):
            spec = weakly_typed(spec, plain, folder, self._library.numbers)
        result = build(spec, folder / "engine.plan", lambda at: say(at.phase, at.fraction))
        built = result.built
        network, extra = own_copy(spec.onnx, folder)
        return Product(result.plan, network, extra, built.layers, built.source, built.warnings)

    def compare(self, expected: Mapping[str, str], product: Product) -> Compared | None:
        """Score the static placement against the builder's."""
        from edgetrt.backends.tensorrt_report import compare

        if not product.layers:
            return None
        told = compare(
            {n: "DLA" if d == "DLA" else "GPU" for n, d in expected.items()}, product.layers
        )
        return Compared(
            source=product.source,
            agreed=told.agreed,
            compared=told.compared,
            differing=[f"{name}: {ours}, built {theirs}" for name, ours, theirs in told.differing],
            missing=list(told.missing),
        )

    def load(self, engine: Path) -> Session | None:
        """Load a plan; None where there is no GPU."""
        return None if self._backend is None else self._backend.load(engine)


def tensorrt_toolset(core: int | None, materials: Materials, gpu: bool = False) -> TensorRtToolset:
    """The toolset of this machine's TensorRT; without `gpu` also where there is none to run its plans.

    Raises:
        BackendError: TensorRT cannot be used here.
    """
    from edgetrt.backends import tensorrt_api

    library = tensorrt_api.load()
    try:
        backend = app.tensorrt_backend(core)
    except BackendError:
        if gpu:
            raise
        backend = None
    return TensorRtToolset(library, backend, materials)


def own_copy(network: Path, folder: Path) -> tuple[Path, dict[str, Path]]:
    """A copy of a network for the cache, its weights with it, and the files besides by name."""
    path = folder / NETWORK
    if not onnx_file.external_files(onnx_file.load(network), network):
        shutil.copyfile(network, path)
        return path, {}
    write_network(read_skeleton(network), path)
    data = path.with_name(f"{path.name}.data")
    return path, {data.name: data} if data.exists() else {}


def weakly_typed(spec: BuildSpec, plain: Path, folder: Path, version: tuple[int, ...]) -> BuildSpec:
    """Say the same as a typed network does in flags and scales, which is all that the DLA took until 10.7."""
    if spec.precision != "int8":
        return replace(spec, onnx=plain, typed=False)
    out, cache = folder / "plain.onnx", folder / "calibration.cache"
    calibration = translate(spec.onnx, out)
    major, minor, patch = (*version, 0, 0, 0)[:3]
    cache.write_text(calibration.cache((major, minor, patch)), encoding="ascii")
    layers: dict[str, Precision] = dict.fromkeys(calibration.half_layers, "fp16")
    return replace(spec, onnx=out, typed=False, calibration=cache, layer_precisions=layers)


def _cpu_flags() -> list[str]:
    """Instruction sets of this CPU, as Linux names them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].split() if found else []
