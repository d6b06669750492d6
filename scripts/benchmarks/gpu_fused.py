"""The fused pass: beside the memory's bandwidth, and beside the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgetrt.config import PreprocessConfig
from edgetrt.geometry import fit
from edgetrt.gpu.layout import BT601, arguments, target
from edgetrt.gpu.preprocess import GpuPreprocessor, launch
from edgetrt.ports import Device
from edgetrt.runtime.preprocess import Preprocessor
from edgetrt.types import Frame, TensorSpec
from scripts.benchmarks import gpu_loops, gpu_peers
from scripts.benchmarks.gpu_bench import Bench

CAMERA = (1920, 1080)


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
