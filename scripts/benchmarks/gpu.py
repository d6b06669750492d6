"""The GPU data plane: the engine alone, our loops around it, the fused preprocessing, and peers.

Times on the device are CUDA events, others wall clocks; figures are medians unless they say p99. Engines
are stand-ins made of PyTorch's convolutions where the machine has no TensorRT that runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgetrt.backends.device_session import DeviceSession, Execution, SessionOptions, choose_memory
from edgetrt.clock import SystemClock
from edgetrt.config import PreprocessConfig, TaskConfig
from edgetrt.errors import EdgetrtError
from edgetrt.geometry import fit
from edgetrt.gpu import compile as kernels
from edgetrt.gpu.device import open_device
from edgetrt.gpu.layout import BT601, arguments, target
from edgetrt.gpu.preprocess import launch
from edgetrt.ports import Device, Module
from edgetrt.runtime import imaging
from edgetrt.runtime.preprocess import Preprocessor
from edgetrt.runtime.tasks.detect import Detector
from edgetrt.types import Frame, TensorSpec
from scripts.benchmarks import gpu_engines, gpu_loops, gpu_peers
from scripts.benchmarks.figures import Figure, report
from scripts.benchmarks.gpu_loops import Lane

ROOT = Path(__file__).parents[2]
CAMERA = (1920, 1080)


@dataclass(frozen=True)
class Network:
    """An engine to measure, with frames for it and a reader of its answers."""

    name: str
    open: Callable[[], Execution]
    size: tuple[int, int]
    decode: gpu_loops.Decode


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


def main() -> int:
    """Measure and print; the exit code says whether every goal is met."""
    wishes = wished()
    benches = []
    for library in wishes.libraries.split(","):
        try:
            benches.append(measured(library, wishes))
        except EdgetrtError as error:
            print(f"{library}: {error.message}", file=sys.stderr)
            benches.append(f"{library}: {error.message}")
    done = [b for b in benches if isinstance(b, Bench)]
    figures = [f for b in done for f in b.figures]
    problems = [b for b in benches if isinstance(b, str)] + [p for b in done for p in b.problems]
    context = {**about(done), "problems": problems}
    if wishes.out is not None:
        wishes.out.mkdir(parents=True, exist_ok=True)
        with (wishes.out / "gpu.json").open("w") as file, redirect_stdout(file):
            report("gpu", figures, context, as_json=True)
    if not figures:
        print(json.dumps(context))
        return 1
    return report("gpu", figures, context, as_json=wishes.json)


def wished() -> argparse.Namespace:
    """What the caller wishes."""
    parser = argparse.ArgumentParser(prog="scripts/bench gpu", description=__doc__)
    add = parser.add_argument
    add("--json", action="store_true")
    add("--out", type=Path, help="folder for gpu.json")
    add("--libraries", default="cuda-python,pycuda")
    add("--cache", type=Path, default=Path("/tmp/edgetrt-kernels"))  # noqa: S108
    add("--model", type=Path, default=ROOT / "engines" / "person" / "person.onnx")
    add("--plan", type=Path, help="a TensorRT or TensorRT-RTX plan to try")
    add("--frames", type=int, default=1000, help="of each loop")
    add("--quick", action="store_true", help="fewer frames and fewer pipelines")
    return parser.parse_args()


def about(benches: list[Bench]) -> dict[str, Any]:
    """Versions and the GPU."""
    out: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "resizer": imaging.resizer()}
    for bench in benches[:1]:
        info = bench.device.info
        out["gpu"] = info.name
        out["compute_capability"] = ".".join(map(str, info.compute_capability))
        out["driver_cuda"] = ".".join(map(str, info.driver))
    for name in ("torch", "cuda.bindings", "pycuda", "numpy", "cv2", "onnxruntime"):
        try:
            module = __import__(name, fromlist=["x"])
            out[name] = str(getattr(module, "__version__", getattr(module, "VERSION_TEXT", "?")))
        except ImportError:
            out[name] = None
    out["platform"] = platform.release()
    return out


def measured(library: str, wishes: argparse.Namespace) -> Bench:
    """Everything with one CUDA library; the first one also gets the parts that need no library."""
    device = open_device(library)
    major, minor = device.info.compute_capability
    device.push()
    module = device.module(kernels.load("preprocess", major * 10 + minor, wishes.cache))
    device.pop()
    bench = Bench(device, library, module)
    first = library == wishes.libraries.split(",")[0]
    networks = list(engines(bench, wishes))
    bandwidth = gpu_peers.copy_bandwidth(bench.device) if first else None
    if first:
        bench.add("copy_bandwidth", bandwidth, "GB/s", note="device to device, read + written")
        bench.section("fused", lambda b: fused(b, bandwidth or 0.0))
        bench.section("against the CPU", against_cpu)
    for network in networks:
        bench.section(
            f"{library} {network.name}", lambda b, n=network: loops(b, n, wishes, first=first)
        )
    if first:
        for network in networks:
            bench.section(f"peers {network.name}", lambda b, n=network: peers(b, n))
        bench.section("memory", lambda b: memory_choice(b, networks[0]))
    return bench


def engines(bench: Bench, wishes: argparse.Namespace) -> Iterator[Network]:
    """The engines there are: a plan when one was given and runs, else stand-ins."""
    labels = ("person",)
    if wishes.plan is not None:
        try:
            yield from planned(bench, wishes.plan)
        except (EdgetrtError, RuntimeError) as error:
            bench.problems.append(f"{wishes.plan.name}: {error}")
            print(f"{wishes.plan.name}: {error}", file=sys.stderr, flush=True)
    try:
        person = gpu_engines.person(wishes.model)
        task = Detector(person.outputs, labels, TaskConfig())
        off = gpu_engines.disagreement(person, wishes.model)
        bench.add("person_standin_error", off, goal=0.02, note="scores, against ONNX Runtime FP32")
        yield Network("person", person.twin, (768, 576), task.decode)
        resnet = gpu_engines.resnet50()
        yield Network("resnet50", resnet.twin, (640, 480), lambda t, _p, _s: int(t["y"].argmax()))
    except (EdgetrtError, RuntimeError, ImportError, KeyError) as error:
        traceback.print_exc()
        bench.problems.append(f"stand-ins: {type(error).__name__}: {error}")


def planned(bench: Bench, plan: Path) -> Iterator[Network]:
    """A TensorRT plan as an engine, when this machine can load it."""
    from edgetrt.backends.tensorrt import TensorRtBackend, TensorRtExecution

    backend = TensorRtBackend(bench.device)
    session = backend.load(plan)
    session.infer()
    session.close()
    data = plan.read_bytes()

    def open_() -> Execution:
        engine = backend._runtime().deserialize_cuda_engine(data)
        return TensorRtExecution(backend, engine, plan.name, {})

    outputs = open_().outputs
    task = Detector(outputs, ("person",), TaskConfig())
    yield Network(f"{plan.stem}-{backend.version}", open_, (768, 576), task.decode)


def fused(bench: Bench, bandwidth: float) -> None:
    """1080p NV12 to 640×640 FP16: time per image on the device, and the floor of its bytes."""
    device, module = bench.device, bench.module
    spec = (640, 640)
    placed = fit(CAMERA, spec, "letterbox")
    frame_bytes, tensor_bytes = CAMERA[0] * CAMERA[1] * 3 // 2, 3 * 640 * 640 * 2
    for batch in (1, 8, 64):
        source, out = device.buffer(batch * frame_bytes), device.buffer(batch * tensor_bytes)
        fill(device, source.pointer, batch * frame_bytes)
        shape = (batch, 3, 640, 640)
        into = target(TensorSpec("x", shape, "float16"), out.pointer, PreprocessConfig())
        parameters = arguments(source.pointer, CAMERA, "nv12", placed, into, BT601)
        bound = launch(module, "nv12", into, parameters)
        per_image = on_device_us(device, bound) / batch
        floor = (frame_bytes + tensor_bytes) / bandwidth / 1e3 if bandwidth else None
        goal = {"goal": 2.0} if batch == 64 else {}
        note = "in L2, launch-bound" if batch == 1 else "batch in device memory"
        bench.add(f"fused_nv12_1080p_fp16_b{batch}", per_image, "us/image", note=note)
        if floor:
            bench.add(
                f"fused_over_floor_b{batch}",
                per_image / floor,
                note=f"floor {floor:.2f} us",
                **goal,
            )
        source.close()
        out.close()


def fill(device: Device, pointer: int, nbytes: int) -> None:
    """Random bytes, so that nothing is easier than in life."""
    host = device.host_buffer((nbytes,), "uint8")
    host.array[:] = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
    stream = device.stream()
    stream.copy_in(pointer, host.array)
    stream.synchronize()
    stream.close()
    host.close()


def on_device_us(device: Device, bound: Any, launches: int = 50) -> float:
    """Microseconds of a launch, from graphs of many of them."""
    stream = device.stream()
    begin, end = device.event(timing=True), device.event(timing=True)
    bound.enqueue(stream)
    stream.synchronize()
    graph = stream.capture(lambda: [bound.enqueue(stream) for _ in range(launches)] and None)
    times = []
    for _ in range(20):
        stream.record(begin)
        graph.launch(stream)
        stream.record(end)
        end.wait()
        times.append(end.since(begin) * 1e3 / launches)
    for thing in (graph, begin, end, stream):
        thing.close()
    return float(np.median(times[3:]))


def against_cpu(bench: Bench) -> None:
    """The whole step from a 1080p frame in page-locked memory, against the CPU's."""
    device = bench.device
    shape = (1, 3, 640, 640)
    out = device.buffer(int(np.prod(shape)) * 2)
    into = target(TensorSpec("x", shape, "float16"), out.pointer, PreprocessConfig())
    from edgetrt.gpu.preprocess import GpuPreprocessor

    (shot,) = gpu_loops.frames(CAMERA, "nv12", 1)
    stream, done = device.stream(), device.event(spin=True)
    figures = {}
    for memory in ("copied", "mapped"):
        preprocessor = GpuPreprocessor(device, bench.module, into, PreprocessConfig(), memory)
        preprocessor.write(shot)

        def step(p: GpuPreprocessor = preprocessor) -> None:
            p.enqueue(stream)
            stream.record(done)
            done.wait()

        figures[memory] = gpu_loops.median_ms(step, 200)
        bench.add(f"step_gpu_{memory}", figures[memory], "ms", note="page-locked frame to tensor")
        if memory == "copied":
            write = gpu_loops.median_ms(lambda p=preprocessor: p.write(shot), 100)
            bench.add("step_gpu_write", write, "ms", note="1080p NV12 into page-locked memory")
        preprocessor.close()
    buffer = np.zeros(shape, np.float16)
    cpu = Preprocessor(TensorSpec("x", shape, "float16"), buffer, PreprocessConfig())
    rgb = Frame(np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8), "rgb", 0, 0)
    from_rgb = gpu_loops.median_ms(lambda: cpu.write(rgb), 30)
    whole = gpu_loops.median_ms(lambda: cpu.write(gpu_peers.nv12_to_rgb(shot)), 30)
    bench.add("step_cpu_from_rgb", from_rgb, "ms", note="resize, split, scale; one thread")
    bench.add("step_cpu_from_nv12", whole, "ms", note="with NV12 to RGB before it")
    best = min(figures.values())
    bench.add("fused_speedup", whole / best, goal=20.0, better="higher", note="from NV12")
    for thing in (out, stream, done):
        thing.close()


def loops(bench: Bench, network: Network, wishes: argparse.Namespace, *, first: bool) -> None:
    """One engine: alone, one-shot, overlapped, with graphs and without, several at once."""
    count = wishes.frames // 4 if wishes.quick else wishes.frames
    device, tag = bench.device, f"{network.name}_{bench.library.replace('-', '')}"
    alone = gpu_loops.Alone(device, network.open())
    engine_ms = float(np.median(alone.replay_ms()))
    bench.add(f"{tag}_engine", engine_ms, "ms", note="graph replays back to back, CUDA events")
    once = alone.once_ms()
    bench.add(f"{tag}_engine_wall", once.p50, "ms", note="launch to end of wait, spinning")
    shots = gpu_loops.frames(network.size, "nv12")
    for graphs in (True, False):
        shot_figures(bench, network, tag, shots, engine_ms, count, graphs=graphs)
    overlap_figures(bench, network, tag, shots, engine_ms, count)
    if first:
        runtime_figures(bench, network, tag, shots, count)
        many_figures(bench, network, tag, shots, count // 2, quick=wishes.quick)
    alone.close()


def shot_figures(
    bench: Bench,
    network: Network,
    tag: str,
    shots: list[Frame],
    engine_ms: float,
    count: int,
    *,
    graphs: bool,
) -> None:
    """One frame after the other."""
    for spin in (True, False):
        options = SessionOptions(graphs=graphs, spin=spin)
        lane = gpu_loops.lane(bench.device, bench.module, network.open(), options)
        times = gpu_loops.one_shot(lane, shots, network.decode, count // 2)
        name = f"{tag}_oneshot_{'graph' if graphs else 'nograph'}_{'spin' if spin else 'sleep'}"
        if lane.session.graph_status and graphs:
            bench.problems.append(f"{name}: {lane.session.graph_status}")
        parts = ", ".join(f"{k} {v.p50:.3f}" for k, v in times.items() if k != "total")
        total = times["total"]
        bench.add(name, total.p50, "ms", note=f"p99 {total.p99:.3f}; {parts}")
        goal = {"goal": 0.3} if graphs and spin else {}
        bench.add(f"{name}_over_engine", total.p50 - engine_ms, "ms", **goal)
        lane.close()


def overlap_figures(
    bench: Bench,
    network: Network,
    tag: str,
    shots: list[Frame],
    engine_ms: float,
    count: int,
) -> None:
    """Two to four lanes from one thread; nothing may be allocated on the device meanwhile."""
    for depth, graphs, staged in (
        (2, True, False),
        (2, True, True),
        (3, True, False),
        (4, True, False),
        (2, False, False),
    ):
        options = SessionOptions(graphs=graphs)
        lanes = [
            gpu_loops.lane(bench.device, bench.module, network.open(), options)
            for _ in range(depth)
        ]
        gpu_loops.overlapped(lanes, shots, network.decode, 50, staged=staged)
        before, _ = bench.device.memory()
        rate = gpu_loops.overlapped(lanes, shots, network.decode, count, staged=staged)
        grown = before - bench.device.memory()[0]
        kind = f"{'graph' if graphs else 'nograph'}{'_staged' if staged else ''}"
        name = f"{tag}_pipelined_d{depth}_{kind}"
        best = depth == 3
        bench.add(name, rate.hz, "1/s", note="NV12 frame to decoded result")
        goal = {"goal": 0.97, "better": "higher"} if best else {}
        bench.add(f"{name}_of_engine", rate.hz * engine_ms / 1e3, **goal)
        cpu_goal = {"goal": 150.0} if best else {}
        bench.add(f"{name}_cpu", rate.cpu_us, "us", note="all threads", **cpu_goal)
        if best:
            bench.add(f"{name}_allocated", float(grown), "bytes", goal=0.0)
        for lane in lanes:
            lane.close()


def runtime_figures(
    bench: Bench, network: Network, tag: str, shots: list[Frame], count: int
) -> None:
    """The runtime's own pipeline over the same lanes."""
    lanes = [gpu_loops.lane(bench.device, bench.module, network.open()) for _ in range(2)]
    rate = gpu_peers.runtime_pipeline(lanes, shots, network.decode, count)
    bench.add(f"{tag}_runtime_pipeline_d2", rate.hz, "1/s", note="edgetrt.runtime.pipeline")
    bench.add(f"{tag}_runtime_pipeline_d2_cpu", rate.cpu_us, "us", note="all threads")
    for lane in lanes:
        lane.preprocessor.close()


def many_figures(
    bench: Bench, network: Network, tag: str, shots: list[Frame], count: int, *, quick: bool
) -> None:
    """One to eight pipelines in this process, against as many contexts kept busy."""
    options = SessionOptions()
    for several in (8,) if quick else (1, 2, 4, 8):
        contexts = [gpu_loops.Alone(bench.device, network.open()) for _ in range(several)]
        full = gpu_loops.saturated_hz(contexts)
        for context in contexts:
            context.close()
        groups: list[list[Lane]] = [
            [gpu_loops.lane(bench.device, bench.module, network.open(), options) for _ in range(2)]
            for _ in range(several)
        ]
        hz = gpu_loops.together_hz(groups, shots, network.decode, count)
        bench.add(f"{tag}_contexts_{several}", full, "1/s", note="replays, each always queued")
        bench.add(f"{tag}_pipelines_{several}", hz, "1/s", note="a thread each, depth 2")
        goal = {"goal": 0.95, "better": "higher"} if several == 8 else {}
        bench.add(f"{tag}_pipelines_{several}_share", hz / full, **goal)
        for group in groups:
            for lane in group:
                lane.close()


def peers(bench: Bench, network: Network) -> None:
    """Loops that others would write over the same network."""
    shots = gpu_loops.frames(network.size, "nv12")
    execution: Any = network.open()
    for name, value in gpu_peers.torch_loops(execution, shots, network.decode).items():
        bench.add(f"{network.name}_peer_{name}", value, "ms", note="NV12 frame to decoded result")
    bench.add(
        f"{network.name}_peer_onnxruntime_cuda",
        None,
        "ms",
        note=gpu_peers.onnxruntime_cuda(),
    )


def memory_choice(bench: Bench, network: Network) -> None:
    """The micro-benchmark of deploy time, on this machine."""

    def load(memory: Any) -> DeviceSession:
        return DeviceSession(bench.device, network.open(), SessionOptions(memory=memory))

    choice = choose_memory(load, SystemClock())
    bench.add("memory_copied", choice.copied_ms, "ms", note=f"chosen: {choice.memory}")
    bench.add("memory_mapped", choice.mapped_ms, "ms")


if __name__ == "__main__":
    sys.exit(main())
