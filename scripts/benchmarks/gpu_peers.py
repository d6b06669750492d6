"""What stands beside our loops: a hand-written PyTorch loop, the runtime's pipeline, the copy ceiling."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgetrt.clock import SystemClock
from edgetrt.config import PreprocessConfig
from edgetrt.errors import BackendError
from edgetrt.ports import Device, EndOfStream
from edgetrt.runtime.meter import Meter
from edgetrt.runtime.network import Lane, Network
from edgetrt.runtime.pipeline import Pipeline
from edgetrt.runtime.preprocess import Preprocessor
from edgetrt.types import Detections, Frame, Grant, RawOutput
from scripts.benchmarks import gpu_engines, gpu_loops
from scripts.benchmarks.gpu_loops import Decode, Rate


def copy_bandwidth(device: Device, nbytes: int = 1 << 30) -> float | None:
    """GB/s of a large copy on the device, bytes read plus bytes written; None without PyTorch."""
    try:
        library = gpu_engines.torch()
    except BackendError:
        return None
    device.push()
    a, b = (library.empty(nbytes, dtype=library.uint8, device="cuda") for _ in range(2))
    begin, end = (library.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(12):
        begin.record()
        b.copy_(a)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    del a, b
    library.cuda.empty_cache()
    device.pop()
    return float(2 * nbytes / np.median(times[2:]) / 1e6)


def nv12_to_rgb(frame: Frame) -> Frame:
    """What a CPU path does first."""
    import cv2

    return Frame(cv2.cvtColor(frame.data, cv2.COLOR_YUV2RGB_NV12), "rgb", frame.seq, 0)


class _Shots:
    """A source that gives the same frames over and over, numbered."""

    live = False
    reconnects = 0

    def __init__(self, shots: Sequence[Frame], count: int) -> None:
        self._shots, self._count, self._seq = shots, count, 0

    def read(self, timeout_s: float) -> Frame:
        if self._seq >= self._count:
            raise EndOfStream
        shot = self._shots[self._seq % len(self._shots)]
        self._seq += 1
        return Frame(shot.data, shot.format, self._seq - 1, time.monotonic_ns())

    def close(self) -> None: ...


class _Task:
    """A decoder as the pipeline wants it."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode

    def decode(self, tensors: Any, placed: Any, size: tuple[int, int]) -> Any:
        found = self._decode(tensors, placed, size)
        return found if isinstance(found, Detections) else RawOutput({})


def runtime_pipeline(
    lanes: Sequence[gpu_loops.Lane], shots: Sequence[Frame], decode: Decode, count: int
) -> Rate:
    """Throughput of `edgetrt.runtime.pipeline` itself; it closes the sessions."""
    clock = SystemClock()
    wrapped: Any = tuple(Lane(ln.session, ln.preprocessor) for ln in lanes)  # type: ignore[arg-type]
    network = Network("bench", "gpu", ("person",), wrapped, _Task(decode))
    meter = Meter("bench", clock)
    pipeline = Pipeline(
        name="bench",
        source=_Shots(shots, count),
        network=network,
        sinks=(),
        meter=meter,
        clock=clock,
        grant=Grant(),
    )
    begin, cpu = time.perf_counter(), time.process_time()
    pipeline.run(threading.Event())
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return Rate(meter.counters.done / wall, cpu / count * 1e6)


def torch_loops(
    execution: gpu_engines.TorchExecution, shots: Sequence[Frame], decode: Decode
) -> dict[str, float]:
    """Milliseconds per frame of loops as people write them with PyTorch and OpenCV."""
    library = gpu_engines.torch()
    spec, answer = execution.inputs[0], execution.outputs[0]
    pinned = library.empty(spec.shape, dtype=library.float16, pin_memory=True)
    cpu = Preprocessor(spec, pinned.numpy(), PreprocessConfig())
    there = library.empty(spec.shape, dtype=library.float16, device="cuda")
    network, turn = execution._network, iter(range(1 << 30))

    def eager() -> None:
        frame = shots[next(turn) % len(shots)]
        placed = cpu.write(nv12_to_rgb(frame))
        with library.inference_mode():
            out = network(pinned.cuda(non_blocking=True)).cpu().numpy()
        decode({answer.name: out}, placed, frame.size)

    side = library.cuda.Stream()
    with library.inference_mode(), library.cuda.stream(side):
        for _ in range(3):
            network(there)
    side.synchronize()
    graph = library.cuda.CUDAGraph()
    with library.inference_mode(), library.cuda.graph(graph):
        there.copy_(pinned, non_blocking=True)
        result = network(there)

    def graphed() -> None:
        frame = shots[next(turn) % len(shots)]
        placed = cpu.write(nv12_to_rgb(frame))
        graph.replay()
        decode({answer.name: result.cpu().numpy()}, placed, frame.size)

    return {
        "torch_eager": gpu_loops.median_ms(eager, 100),
        "torch_graph": gpu_loops.median_ms(graphed, 200),
    }


def onnxruntime_cuda() -> str:
    """Why ONNX Runtime's CUDA provider is not measured, or that it could be."""
    try:
        import onnxruntime
    except ImportError as error:
        return f"not importable: {error}"
    providers = onnxruntime.get_available_providers()
    return f"not run; providers here: {', '.join(providers)}"
