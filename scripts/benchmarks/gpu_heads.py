"""What filtering a detection head on the GPU is worth, and what frames cost in which objects are found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgetrt.config import TaskConfig
from edgetrt.runtime.tasks.detect import Detector
from edgetrt.types import Detections, Frame
from scripts.benchmarks import gpu_loops
from scripts.benchmarks.gpu_bench import Bench, Network


def figures(
    bench: Bench, network: Network, tag: str, shots: list[Frame], engine_ms: float, count: int
) -> None:
    """Filtered and whole heads of empty frames, and frames with a crowd in them."""
    filter_figures(bench, network, tag, shots, engine_ms, count)
    crowd = crowded(bench, network, shots[0])
    for depth in (2, 3):
        crowd_figures(bench, crowd, tag, shots, engine_ms, count, depth)


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
        groups = [[bench.lane(network, filtered=filtered) for _ in range(3)] for _ in range(8)]
        every = [lane for group in groups for lane in group]
        gpu_loops.overlapped(every, shots, network.decode, 2 * len(every))
        hz = gpu_loops.together_hz(groups, shots, network.decode, count // 2)
        bench.add(f"{name}_pipelines_8", hz, "1/s", note="a thread each, depth 3")
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
    return replace(network, decode=task.decode, head=task.filterable)


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
