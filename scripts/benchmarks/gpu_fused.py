"""The fused pass: beside the memory's bandwidth, and beside the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgetrt.config import PreprocessConfig
from edgetrt.geometry import fit
from edgetrt.gpu import compile as kernels
from edgetrt.gpu.layout import BT601, arguments, target
from edgetrt.gpu.preprocess import GpuPreprocessor, launch
from edgetrt.ports import Device
from edgetrt.runtime.preprocess import Preprocessor
from edgetrt.types import Frame, TensorSpec
from scripts.benchmarks import gpu_loops, gpu_peers
from scripts.benchmarks.gpu_bench import Bench

CAMERA = (1920, 1080)

_COPY = """
struct Params { const int4 *from; int4 *to; int count; };
extern "C" __global__ void copy(const Params p) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.count) p.to[i] = p.from[i];
}
"""


def fused(bench: Bench, bandwidth: float) -> None:
    """NV12 to 640×640 FP16: time per image on the device beside two floors of the same bytes.

    One floor is their number over the memory's bandwidth, which no launch of this size reaches; the other
    is a kernel that does nothing but copy, and as many bytes.
    """
    for size, batches in ((CAMERA, (1, 8, 64)), ((1280, 720), (8,))):
        frame_bytes, tensor_bytes = size[0] * size[1] * 3 // 2, 3 * 640 * 640 * 2
        for batch in batches:
            spent = pass_us(bench, size, batch) / batch
            name = f"fused_nv12_{size[1]}p_fp16_b{batch}"
            bench.add(name, spent, "us/image")
            floor = (frame_bytes + tensor_bytes) / bandwidth / 1e3 if bandwidth else None
            goal = {"goal": 2.0} if size == CAMERA else {}
            if floor:
                told = f"{floor:.2f} us at {bandwidth:.0f} GB/s"
                bench.add(f"{name}_over_bandwidth", spent / floor, note=told, **goal)
            copied = copy_us(bench.device, batch * (frame_bytes + tensor_bytes)) / batch
            told = f"{copied:.2f} us for a kernel that copies as many bytes"
            bench.add(f"{name}_over_copy", spent / copied, note=told)


def pass_us(bench: Bench, size: tuple[int, int], batch: int) -> float:
    """Microseconds of one launch over a batch of frames."""
    device = bench.device
    shape = (batch, 3, 640, 640)
    frame_bytes = size[0] * size[1] * 3 // 2
    source, out = device.buffer(batch * frame_bytes), device.buffer(int(np.prod(shape)) * 2)
    fill(device, source.pointer, batch * frame_bytes)
    into = target(TensorSpec("x", shape, "float16"), out.pointer, PreprocessConfig())
    placed = fit(size, (640, 640), "letterbox")
    parameters = arguments(source.pointer, size, "nv12", placed, into, BT601)
    spent = on_device_us(device, launch(bench.module, "nv12", into, parameters))
    source.close()
    out.close()
    return spent


def copy_us(device: Device, nbytes: int) -> float:
    """Microseconds of a kernel that reads half of the bytes and writes them as the other half."""
    major, minor = device.info.compute_capability
    image = kernels.find_compiler().compile(_COPY, "copy.cu", major * 10 + minor)
    module = device.module(image)
    source, out = device.buffer(nbytes // 2), device.buffer(nbytes // 2)
    fill(device, source.pointer, nbytes // 2)
    count = nbytes // 32
    parameters = np.array([source.pointer, out.pointer, count], np.uint64).tobytes()
    spent = on_device_us(
        device, module.bind("copy", (-(-count // 256), 1, 1), (256, 1, 1), parameters)
    )
    for thing in (source, out, module):
        thing.close()
    return spent


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
