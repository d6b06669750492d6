"""What filtering a detection head on the GPU is worth, and what frames cost in which objects are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from edgetrt.config import TaskConfig
from edgetrt.geometry import fit
from edgetrt.gpu.detect import CandidateFilter
from edgetrt.ports import DeviceBuffer, HostBuffer, Stream
from edgetrt.runtime.tasks.detect import Detector
from edgetrt.types import Detections, Frame, TensorSpec
from scripts.benchmarks import gpu_fused, gpu_loops
from scripts.benchmarks.gpu_bench import Bench, Network

HEADS = (
    TensorSpec("y", (1, 5, 4032), "float32"),
    TensorSpec("y", (1, 84, 2100), "float32"),
    TensorSpec("y", (1, 84, 8400), "float32"),
    TensorSpec("y", (1, 84, 8400), "float16"),
)
"""The person detector's head, and those of COCO detectors at 320 and 640 pixels."""


def figures(
    bench: Bench, network: Network, tag: str, shots: list[Frame], engine_ms: float, count: int
) -> None:
    """Filtered and whole heads of empty frames, and frames with a crowd in them."""
    for spec in HEADS:
        head_figures(bench, spec)
    filter_figures(bench, network, tag, shots, engine_ms, count)
    crowd = crowded(bench, network, shots[0])
    for depth in (2, 3):
        crowd_figures(bench, crowd, tag, shots, engine_ms, count, depth)
    eight(bench, crowd, f"{tag}_crowd", shots, count)


def head_figures(bench: Bench, spec: TensorSpec) -> None:
    """One head without anybody in it: the filter beside the copy, and reading what each leaves."""
    device, size = bench.device, (640, 480)
    head = device.host_buffer(spec.shape, spec.dtype)
    head.array[...] = np.random.default_rng(0).random(spec.shape) * 0.2
    there, stream = device.buffer(head.array.nbytes), device.stream()
    stream.copy_in(there.pointer, head.array)
    task = Detector((spec,), (), TaskConfig())
    candidates = CandidateFilter(device, bench.detect, spec, there.pointer, 0.25)
    candidates.enqueue(stream)
    stream.synchronize()
    placed = fit(size, (640, 640), "letterbox")
    name = f"head_{spec.shape[1]}x{spec.shape[2]}_{spec.dtype}"
    bench.add(f"{name}_filter", gpu_fused.on_device_us(device, candidates), "us", note="GPU")
    copied = gpu_fused.on_device_us(device, _Copy(head, there))
    bench.add(f"{name}_copy", copied, "us", note="GPU to host")
    read: dict[str, Callable[[], Any]] = {"filtered": candidates.read, "whole": lambda: head.array}
    for kind, tensor in read.items():
        spent = gpu_loops.median_ms(
            lambda t=tensor: task.decode({spec.name: t()}, placed, size), 200
        )
        bench.add(f"{name}_decode_{kind}", spent * 1e3, "us", note="processor, nobody there")
    for thing in (candidates, stream, there, head):
        thing.close()


class _Copy:
    """What a session queues behind an engine whose head is not filtered."""

    def __init__(self, host: HostBuffer, there: DeviceBuffer) -> None:
        self._host, self._there = host, there

    def enqueue(self, stream: Stream) -> None:
        stream.copy_out(self._host.array, self._there.pointer)


def filter_figures(
    bench: Bench, network: Network, tag: str, shots: list[Frame], engine_ms: float, count: int
) -> None:
    """The same loops with the head filtered on the GPU, and read whole by the CPU."""
    for filtered in (True, False):
        lanes = [bench.lane(network, filtered=filtered) for _ in range(2)]
        rate = gpu_loops.overlapped(lanes, shots, network.decode, count)
        name = f"{tag}_{'filtered' if filtered else 'whole'}_head"
        bench.add(f"{name}_d2_of_engine", rate.hz * engine_ms / 1e3)
        bench.add(f"{name}_d2_cpu", rate.cpu_us, "us", note="all threads")
        for lane in lanes:
            lane.close()
        eight(bench, network, name, shots, count, filtered=filtered)


def eight(
    bench: Bench,
    network: Network,
    name: str,
    shots: list[Frame],
    count: int,
    *,
    filtered: bool = False,
) -> None:
    """Eight pipelines in this process."""
    groups = [[bench.lane(network, filtered=filtered) for _ in range(3)] for _ in range(8)]
    every = [lane for group in groups for lane in group]
    gpu_loops.overlapped(every, shots, network.decode, 2 * len(every))
    hz = [gpu_loops.together_hz(groups, shots, network.decode, count // 2) for _ in range(3)]
    bench.add(f"{name}_pipelines_8", float(np.median(hz)), "1/s", note="a thread each, depth 3")
    for lane in every:
        lane.close()


def crowded(bench: Bench, network: Network, shot: Frame) -> Network:
    """The same network with a score so low that two dozen candidates of the noise pass."""
    lane = bench.lane(network, filtered=False)
    lane.preprocessor.write(shot)
    (head,) = lane.session.infer().values()
    score = float(np.sort(np.asarray(head[0, 4], np.float32))[-24])
    lane.close()
    task = Detector(lane.session.outputs, ("person",), TaskConfig(score=score))
    return replace(network, decode=task.decode, head=None)


def crowd_figures(
    bench: Bench,
    network: Network,
    tag: str,
    shots: list[Frame],
    engine_ms: float,
    count: int,
    depth: int,
) -> None:
    """Frames in which objects are found: their boxes go through the suppression."""
    lanes = [bench.lane(network) for _ in range(depth)]
    gpu_loops.overlapped(lanes, shots, network.decode, 20)
    rate = gpu_loops.overlapped(lanes, shots, network.decode, count)
    found = network.decode(lanes[0].session.infer(), lanes[0].preprocessor.write(shots[0]), (8, 8))
    note = f"{len(found) if isinstance(found, Detections) else 0} objects in the last frame"
    bench.add(f"{tag}_crowd_d{depth}_of_engine", rate.hz * engine_ms / 1e3, note=note)
    bench.add(f"{tag}_crowd_d{depth}_cpu", rate.cpu_us, "us", note="all threads")
    for lane in lanes:
        lane.close()
