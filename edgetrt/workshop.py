"""What `deploy` needs from this machine: frames from the user's source, and backends that build and run.

Composition like `app`; the flow itself is `edgetrt.engine.deploy`.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetrt import app
from edgetrt.boards import generic, jetson
from edgetrt.clock import SystemClock
from edgetrt.engine.bench import bench
from edgetrt.engine.deploy import NETWORK, Product
from edgetrt.engine.fingerprint import Toolchain
from edgetrt.errors import BackendError, SourceLostError
from edgetrt.model import frames as frame_files
from edgetrt.model.calibration import translate
from edgetrt.model.quantize import TENSORRT, cpu_style
from edgetrt.ports import EndOfStream
from edgetrt.runtime.preprocess import Preprocessor
from edgetrt.types import DeviceIdentity

if TYPE_CHECKING:
    from edgetrt.engine.accuracy import Gate
    from edgetrt.engine.bench import Figures
    from edgetrt.engine.spec import BuildSpec, Precision
    from edgetrt.model.frames import Frames
    from edgetrt.model.quantize import Style
    from edgetrt.ports import Backend, Session
    from edgetrt.runtime.reading import Reading
    from edgetrt.sources.uri import SourceUri

TRIAL_S, BENCH_S = 0.4, 2.0
WATERFALL_FRAMES = 60
STRIDE = 5
"""Of a video every fifth frame is taken: neighbours show the same."""
PATIENCE_S = 10.0
"""How long a source may stay silent while frames are collected."""


def device() -> DeviceIdentity:
    """What this machine is."""
    return jetson.identify() or generic.identify()


class Footage:
    """The user's frames, as the pipeline would preprocess them.

    Args:
        reading: how the network is read.
        source: where the frames come from.
        most: how many at most.
    """

    def __init__(self, reading: Reading, source: SourceUri, most: int) -> None:
        self._reading, self._source, self._most = reading, source, most

    def digest(self) -> str:
        """Name the frames by their files' names, sizes and dates, or by the source's address."""
        stats = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in _files(self._source)]
        return hashlib.sha256(repr((str(self._source), self._most, stats)).encode()).hexdigest()

    def spool(self, folder: Path) -> Frames:
        """Preprocess the frames and keep them.

        Raises:
            SourceError: the source cannot be read.
            ModelError: it has no frames.
        """
        place = folder / "frames"
        place.mkdir(exist_ok=True)
        return frame_files.spool(self._feeds(), (self._reading.input,), place, self._most)

    def _feeds(self) -> Iterator[dict[str, Any]]:
        spec = self._reading.input
        buffer = np.zeros(spec.shape, spec.dtype)
        preprocessor = Preprocessor(spec, buffer, self._reading.recipe.config.preprocess)
        stride = 1 if self._source.scheme == "dir" else STRIDE
        source = app.open_source(self._source)
        try:
            for number in count():
                frame = source.read(timeout_s=PATIENCE_S)
                if frame is None:
                    raise SourceLostError(
                        f"{self._source}: no frame for {PATIENCE_S:.0f} s", "Is the camera running?"
                    )
                if number % stride == 0:
                    preprocessor.write(frame)
                    yield {spec.name: buffer.copy()}
        except EndOfStream:
            return
        finally:
            source.close()


class Shop:
    """What is the same for every backend.

    Args:
        reading: how the network is read.
        footage: the user's frames; None when there are none.
        source: for the waterfall; None when there is none.
    """

    backend: str
    toolchain: Toolchain
    style: Style

    def __init__(self, reading: Reading, footage: Footage | None, source: SourceUri | None) -> None:
        self.device = device()
        self._reading, self._footage, self._source = reading, footage, source

    def frames_digest(self) -> str:
        """Name the user's frames; empty when there are none."""
        return self._footage.digest() if self._footage else ""

    def frames(self, folder: Path) -> Frames | None:
        """Preprocess the user's frames."""
        return self._footage.spool(folder) if self._footage else None

    def gate(self) -> Gate:
        """How the task is judged."""
        return self._reading.gate()

    def figures(self, session: Session) -> Figures:
        """Measure the engine by itself."""
        return bench(session, BENCH_S, SystemClock())

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


class CpuShop(Shop):
    """ONNX Runtime or OpenVINO: the engine is the network's file itself.

    Args:
        backend: what runs it.
        threads: of the backend.
        parts: as for `Shop`.
    """

    def __init__(self, backend: Backend, threads: int, *parts: Any) -> None:
        super().__init__(*parts)
        self.backend, self._backend, self._threads = backend.name, backend, threads
        self.toolchain = Toolchain(backend.name, backend.version)
        self.style = cpu_style(platform.machine(), _cpu_flags())

    def time_ms(self, network: Path) -> float | None:
        """Median time of one inference of a network."""
        session = self.load(network)
        try:
            return bench(session, TRIAL_S, SystemClock()).latency_ms.median
        finally:
            session.close()

    def build(
        self, spec: BuildSpec, plain: Path, folder: Path, say: Callable[[str], None]
    ) -> Product:
        """Nothing is compiled ahead: the network is the engine."""
        say("copying the network")
        path = folder / NETWORK
        shutil.copyfile(spec.onnx, path)
        return Product(path, path)

    def load(self, engine: Path) -> Session:
        """Load a network's file."""
        return self._backend.load(engine, self._threads, self._reading.shapes)


class TensorRtShop(Shop):
    """TensorRT or TensorRT-RTX: plans, built in a process of their own.

    Raises:
        BackendError: TensorRT cannot be used here.
    """

    backend = "tensorrt"
    style = TENSORRT

    def __init__(self, *parts: Any) -> None:
        from edgetrt.backends import tensorrt_api

        super().__init__(*parts)
        self._library = tensorrt_api.load()
        self.toolchain = tensorrt_api.toolchain(self._library)

    def time_ms(self, network: Path) -> float | None:
        """Only a built engine can be timed."""
        return None

    def build(
        self, spec: BuildSpec, plain: Path, folder: Path, say: Callable[[str], None]
    ) -> Product:
        """Build a plan; progress is told in per cent."""
        from edgetrt.engine.build import build

        if spec.dla is not None and hasattr(self._library.trt.BuilderFlag, "FP16"):
            spec = weakly_typed(spec, plain, folder, self._library.numbers)
        result = build(
            spec,
            folder / "engine.plan",
            lambda at: say(at.phase if at.fraction is None else f"{at.phase} {at.fraction:.0%}"),
        )
        return Product(result.plan, spec.onnx, result.built.warnings)

    def load(self, engine: Path) -> Session | None:
        """Load a plan where there is a GPU; None where engines can only be built."""
        try:
            return app.tensorrt_backend().load(engine)
        except BackendError:
            return None


def weakly_typed(spec: BuildSpec, plain: Path, folder: Path, version: tuple[int, ...]) -> BuildSpec:
    """Say the same as a typed network does in flags and scales, which is all that the DLA took until 10.7."""
    if spec.precision != "int8":
        return replace(spec, onnx=plain, typed=False)
    out, cache = folder / "plain.onnx", folder / "calibration.cache"
    calibration = translate(spec.onnx, out)
    major, minor, patch = (*version, 0, 0, 0)[:3]
    cache.write_text(calibration.cache((major, minor, patch)))
    layers: dict[str, Precision] = dict.fromkeys(calibration.half_layers, "fp16")
    return replace(spec, onnx=out, typed=False, calibration=cache, layer_precisions=layers)


def _files(source: SourceUri) -> list[Path]:
    """The files that a source reads, in order of name; none for a stream or a drawn scene."""
    path = Path(source.target)
    if source.scheme == "file":
        return [path]
    if source.scheme != "dir":
        return []
    found = path.iterdir() if path.is_dir() else path.parent.glob(path.name)
    return sorted(entry for entry in found if entry.is_file())


def _cpu_flags() -> list[str]:
    """Instruction sets of this CPU, as Linux names them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].split() if found else []
