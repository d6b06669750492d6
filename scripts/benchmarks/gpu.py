"""The GPU data plane: the engine alone, our loops around it, the fused preprocessing, and peers.

Times on the device are CUDA events, others wall clocks; figures are medians unless they say p99. Engines
are stand-ins made of PyTorch's convolutions where the machine has no TensorRT that runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from edgetrt.backends.device_session import DeviceSession, Execution, SessionOptions
from edgetrt.backends.memory import choose_memory
from edgetrt.clock import SystemClock
from edgetrt.config import TaskConfig
from edgetrt.errors import EdgetrtError
from edgetrt.gpu import compile as kernels
from edgetrt.gpu.device import open_device
from edgetrt.runtime import imaging
from edgetrt.runtime.tasks.detect import Detector
from edgetrt.types import Frame
from scripts.benchmarks import gpu_engines, gpu_fused, gpu_heads, gpu_loops, gpu_peers
from scripts.benchmarks.figures import report
from scripts.benchmarks.gpu_bench import Bench, Network
from scripts.benchmarks.gpu_loops import Lane

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Measure and print; the exit code says whether every goal is met."""
    wishes = wished()
    benches: list[Bench | str] = []
    for library in wishes.libraries.split(","):
        try:
            benches.append(measured(library, wishes))
        except EdgetrtError as error:
            print(f"{library}: {error.message}", file=sys.stderr)
            benches.append(f"{library}: {error.message}")
        if wishes.out is not None:  # after each, in case the next one takes the process with it
            wishes.out.mkdir(parents=True, exist_ok=True)
            with (wishes.out / "gpu.json").open("w") as file, redirect_stdout(file):
                told(benches, as_json=True)
    return told(benches, as_json=wishes.json)


def told(benches: list[Bench | str], *, as_json: bool) -> int:
    """Print what was found; 1 when a goal is missed or nothing was found."""
    done = [b for b in benches if isinstance(b, Bench)]
    figures = [f for b in done for f in b.figures]
    problems = [b for b in benches if isinstance(b, str)] + [p for b in done for p in b.problems]
    context = {**about(done), "problems": problems}
    if not figures:
        print(json.dumps(context))
        return 1
    return report("gpu", figures, context, as_json=as_json)


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
    return out


def measured(library: str, wishes: argparse.Namespace) -> Bench:
    """Everything with one CUDA library; the first one also gets the parts that need no library."""
    device = open_device(library)
    major, minor = device.info.compute_capability
    device.push()
    code = [kernels.load(name, major * 10 + minor, wishes.cache) for name in kernels.KERNELS]
    bench = Bench(device, library, *(device.module(image) for image in code))
    device.pop()
    first = library == wishes.libraries.split(",")[0]
    networks = list(engines(bench, wishes))
    bandwidth = gpu_peers.copy_bandwidth(bench.device) if first else None
    if first:
        bench.add("copy_bandwidth", bandwidth, "GB/s", note="device to device, read + written")
        bench.section("fused", lambda b: gpu_fused.fused(b, bandwidth or 0.0))
        bench.section("against the CPU", gpu_fused.against_cpu)
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
        yield Network(
            "person",
            person.twin,
            (768, 576),
            task.decode,
            (person.outputs[0].name, TaskConfig().score),
        )
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
    yield Network(f"{plan.stem}-{backend.version}", open_, (768, 576), task.decode, task.filterable)


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
        runtime_figures(bench, network, tag, shots, engine_ms, count)
        many_figures(bench, network, tag, shots, count // 2, quick=wishes.quick)
        if network.head is not None:
            gpu_heads.figures(bench, network, tag, shots, engine_ms, count)
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
        lane = bench.lane(network, options)
        times = gpu_loops.one_shot(lane, shots, network.decode, count // 2)
        name = f"{tag}_oneshot_{'graph' if graphs else 'nograph'}_{'spin' if spin else 'sleep'}"
        if lane.session.graph_status and graphs:
            bench.problems.append(f"{name}: {lane.session.graph_status}")
        parts = ", ".join(f"{k} {v.p50:.3f}" for k, v in times.items() if k != "total")
        total = times["total"]
        bench.add(name, total.p50, "ms", note=f"p99 {total.p99:.3f}; {parts}")
        goal = {"goal": 0.3} if graphs else {}
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
        (3, True, True),
        (4, True, False),
        (2, False, False),
    ):
        options = SessionOptions(graphs=graphs)
        lanes = [bench.lane(network, options) for _ in range(depth)]
        gpu_loops.overlapped(lanes, shots, network.decode, 50, staged=staged)
        before, _ = bench.device.memory()
        rate = gpu_loops.overlapped(lanes, shots, network.decode, count, staged=staged)
        grown = before - bench.device.memory()[0]
        kind = f"{'graph' if graphs else 'nograph'}{'_staged' if staged else ''}"
        name = f"{tag}_pipelined_d{depth}_{kind}"
        best = depth < 4 and graphs and not staged
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
    bench: Bench, network: Network, tag: str, shots: list[Frame], engine_ms: float, count: int
) -> None:
    """The runtime's own pipeline over the same lanes."""
    for depth in (2, 3):
        lanes = [bench.lane(network) for _ in range(depth)]
        gpu_loops.overlapped(lanes, shots, network.decode, 20)
        rate = gpu_peers.runtime_pipeline(lanes, shots, network.decode, count)
        name = f"{tag}_runtime_pipeline_d{depth}"
        bench.add(name, rate.hz, "1/s", note="edgetrt.runtime.pipeline")
        bench.add(f"{name}_of_engine", rate.hz * engine_ms / 1e3)
        bench.add(f"{name}_cpu", rate.cpu_us, "us", note="all threads")
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
            [bench.lane(network, options) for _ in range(3)] for _ in range(several)
        ]
        every = [lane for group in groups for lane in group]
        # Captured here, by one thread: PyTorch tunes and allocates anew in each thread that runs it.
        gpu_loops.overlapped(every, shots, network.decode, 2 * len(every))
        hz = gpu_loops.settled_hz(groups, shots, network.decode, count)
        own = gpu_loops.settled_hz(groups, shots, network.decode, count, staged=True)
        one = gpu_loops.overlapped(every, shots, network.decode, count * several).hz
        bench.add(f"{tag}_contexts_{several}", full, "1/s", note="replays, each always queued")
        bench.add(f"{tag}_pipelines_{several}", hz, "1/s", note="a thread each, depth 3")
        goal = {"goal": 0.95, "better": "higher"} if several == 8 else {}
        bench.add(f"{tag}_pipelines_{several}_share", hz / full, **goal)
        bench.add(f"{tag}_pipelines_{several}_staged_share", own / full, note="no copy by the CPU")
        bench.add(f"{tag}_pipelines_{several}_one_thread_share", one / full, note="the same lanes")
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
