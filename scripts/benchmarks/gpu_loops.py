"""The loops that are timed: the engine alone, one shot, overlapping lanes, several pipelines at once."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetrt.backends.device_session import DeviceSession, Execution, SessionOptions
from edgetrt.config import PreprocessConfig
from edgetrt.gpu.layout import target
from edgetrt.gpu.preprocess import GpuPreprocessor
from edgetrt.ports import Device, Graph, Module, Stream
from edgetrt.types import Frame, PixelFormat

Decode = Callable[[Any, Any, tuple[int, int]], object]


@dataclass
class Lane:
    """A session with the pass that fills it; `runtime.network.Lane` has the same two names."""

    session: DeviceSession
    preprocessor: GpuPreprocessor

    def close(self) -> None:
        """Free both."""
        self.session.close()
        self.preprocessor.close()


def lane(
    device: Device, module: Module, execution: Execution, options: SessionOptions | None = None
) -> Lane:
    """Open a session whose input the fused pass fills."""
    session = DeviceSession(device, execution, options)
    spec = session.inputs[0]
    config = PreprocessConfig()
    into = target(spec, session.pointer(spec.name), config)
    preprocessor = GpuPreprocessor(device, module, into, config)
    session.lead(spec.name, preprocessor)
    return Lane(session, preprocessor)


def frames(size: tuple[int, int], pixel_format: PixelFormat, count: int = 16) -> list[Frame]:
    """Blurred noise in memory that is not page-locked, as a decoder leaves it."""
    from edgetrt.gpu.layout import frame_shape

    rng = np.random.default_rng(1)
    out = []
    for seq in range(count):
        data = rng.integers(0, 256, frame_shape(size, pixel_format), np.uint8)
        data = (data // 4 + np.roll(data, 1, 0) // 4 + np.roll(data, 1, 1) // 4 + 60).astype(
            np.uint8
        )
        out.append(Frame(data, pixel_format, seq, time.monotonic_ns()))
    return out


@dataclass(frozen=True)
class Timing:
    """Wall times of single frames, in milliseconds."""

    p50: float
    p99: float
    mean: float


def timing(ns: Sequence[int]) -> Timing:
    """Percentiles of nanoseconds."""
    p50, p99 = np.percentile(ns, (50, 99)) / 1e6
    return Timing(float(p50), float(p99), float(np.mean(ns)) / 1e6)


class Alone:
    """An engine with its tensors bound to device memory and nothing around it, captured."""

    def __init__(self, device: Device, execution: Execution, *, spin: bool = True) -> None:
        self._device, self._execution = device, execution
        self.stream: Stream = device.stream()
        self.done = device.event(spin=spin)
        self._buffers = []
        for spec in (*execution.inputs, *execution.outputs):
            host = device.host_buffer(spec.shape, spec.dtype)
            host.array[...] = np.random.default_rng(0).random(spec.shape).astype(spec.dtype)
            buffer = device.buffer(host.array.nbytes)
            self.stream.copy_in(buffer.pointer, host.array)
            self.stream.synchronize()
            host.close()
            execution.bind(spec.name, buffer.pointer)
            self._buffers.append(buffer)
        for _ in range(3):
            execution.enqueue(self.stream.handle)
        self.stream.synchronize()
        self.graph: Graph = self.stream.capture(lambda: execution.enqueue(self.stream.handle))

    def replay_ms(self, replays: int = 300, rounds: int = 5) -> list[float]:
        """Milliseconds of a replay by CUDA events, back to back, of each round."""
        begin, end = (self._device.event(timing=True) for _ in range(2))
        out = []
        for _ in range(rounds + 1):
            self.stream.record(begin)
            for _ in range(replays):
                self.graph.launch(self.stream)
            self.stream.record(end)
            end.wait()
            out.append(end.since(begin) / replays)
        begin.close()
        end.close()
        return out[1:]

    def once_ms(self, count: int = 300) -> Timing:
        """Wall time of one replay from launch to the end of the wait."""
        times = []
        for _ in range(count):
            start = time.perf_counter_ns()
            self.graph.launch(self.stream)
            self.stream.record(self.done)
            self.done.wait()
            times.append(time.perf_counter_ns() - start)
        return timing(times)

    def close(self) -> None:
        """Free everything, the engine included."""
        for thing in (self.graph, self.done, self.stream, *self._buffers):
            thing.close()
        self._execution.close()


def saturated_hz(alone: Sequence[Alone], replays: int = 400) -> float:
    """Replays per second of several contexts, each always with two launched."""
    start = time.perf_counter()
    for turn in range(replays):
        for a in alone:
            if turn:
                a.done.wait()  # the replay before the last one: another is still queued behind it
            a.stream.record(a.done)
            a.graph.launch(a.stream)
    for a in alone:
        a.stream.synchronize()
    return replays * len(alone) / (time.perf_counter() - start)


def one_shot(lane: Lane, shots: Sequence[Frame], decode: Decode, count: int) -> dict[str, Timing]:
    """Frame in host memory to decoded result, one after the other; also the parts."""
    total, write, infer, post = [], [], [], []
    for i in range(count + 20):
        frame = shots[i % len(shots)]
        a = time.perf_counter_ns()
        placed = lane.preprocessor.write(frame)
        b = time.perf_counter_ns()
        tensors = lane.session.infer()
        c = time.perf_counter_ns()
        decode(tensors, placed, frame.size)
        d = time.perf_counter_ns()
        if i >= 20:
            total.append(d - a)
            write.append(b - a)
            infer.append(c - b)
            post.append(d - c)
    named = {"total": total, "write": write, "infer": infer, "decode": post}
    return {name: timing(values) for name, values in named.items()}


@dataclass(frozen=True)
class Rate:
    """A loop's throughput and what it costs the processor (all threads, driver's included)."""

    hz: float
    cpu_us: float


def overlapped(
    lanes: Sequence[Lane],
    shots: Sequence[Frame],
    decode: Decode,
    count: int,
    *,
    staged: bool = False,
) -> Rate:
    """Keep every lane busy from one thread; `staged`: the source wrote into our own memory."""
    sources = [
        [Frame(ln.preprocessor.staging(shots[0].size, shots[0].format)[0], shots[0].format, 0, 0)]
        if staged
        else shots
        for ln in lanes
    ]
    placed: list[Any] = [None] * len(lanes)
    begin = cpu = 0.0
    for i in range(count + 50):
        if i == 50:
            begin, cpu = time.perf_counter(), time.process_time()
        turn = i % len(lanes)
        ln, source = lanes[turn], sources[turn]
        if i >= len(lanes):
            decode(ln.session.wait(), placed[turn], shots[0].size)
        placed[turn] = ln.preprocessor.write(source[i % len(source)])
        ln.session.start()
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    for ln in lanes:
        ln.session.wait()
    return Rate(count / wall, cpu / count * 1e6)


def together_hz(
    pipelines: Sequence[Sequence[Lane]],
    shots: Sequence[Frame],
    decode: Decode,
    count: int,
    *,
    staged: bool = False,
) -> float:
    """Sum of the throughputs of several pipelines, a thread each."""
    rates = [0.0] * len(pipelines)
    ready = threading.Barrier(len(pipelines))

    def work(index: int) -> None:
        overlapped(pipelines[index], shots, decode, 20, staged=staged)
        ready.wait(60)
        rates[index] = overlapped(pipelines[index], shots, decode, count, staged=staged).hz

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(pipelines))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def settled_hz(
    groups: list[list[Lane]],
    shots: list[Frame],
    decode: Decode,
    count: int,
    *,
    staged: bool = False,
) -> float:
    """The middle one of three rates: threads that share an interpreter fall into step, or do not."""
    return float(
        np.median([together_hz(groups, shots, decode, count, staged=staged) for _ in range(3)])
    )


def median_ms(run: Callable[[], object], count: int) -> float:
    """Median wall time of a call."""
    times = []
    for i in range(count + 3):
        start = time.perf_counter_ns()
        run()
        if i >= 3:
            times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1e6
