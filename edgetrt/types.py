"""The frozen values that flow between the parts.

numpy is named in annotations only: the control plane imports this module and never loads numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from edgetrt.ports import Surface

PixelFormat = Literal["rgb", "bgr", "gray", "rgbx", "bgrx", "nv12", "yuyv"]
YuvColor = Literal["bt601", "bt601-full", "bt709", "bt709-full", "bt2020"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A named input or output of a network.

    `shape` has -1 where a dimension is dynamic; `dtype` is numpy's name of the element type.
    """

    name: str
    shape: Shape
    dtype: str


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """What machine this is, as far as an engine depends on it; None = could not be read.

    Attributes:
        model: in the vendor's words.
        part_number: of the module, `p3767-0003`.
        soc: `tegra234`; on other machines the processor architecture.
        compute_capability: of the GPU, `8.7`.
        l4t: release of Jetson Linux, `36.4.3`.
        memory_bytes: installed, shared with the GPU on a Jetson.
    """

    model: str
    part_number: str | None = None
    soc: str | None = None
    compute_capability: str | None = None
    l4t: str | None = None
    memory_bytes: int | None = None

    @property
    def jetson(self) -> bool:
        """True on a Jetson module."""
        return self.soc is not None and self.soc.startswith("tegra")


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A GPU, as its driver describes it.

    Attributes:
        name: in the vendor's words.
        compute_capability: major and minor, (8, 7).
        driver: newest CUDA version that the driver serves, (13, 0).
        integrated: it shares the host's memory, as on a Jetson.
        graphs: why work cannot be captured into graphs; empty when it can.
    """

    name: str
    compute_capability: tuple[int, int]
    driver: tuple[int, int]
    integrated: bool
    graphs: str = ""


@dataclass(frozen=True, slots=True)
class BuiltLayer:
    """A layer of a finished engine and where the builder put it.

    Attributes:
        name: as the builder calls it; fused layers are joined with ` + `, a DLA loadable is
            `{ForeignNode[first...last]}`.
        device: where it runs.
        kind: the builder's layer type in upper case; `REFORMAT` for a change of memory layout only.
        nodes: ONNX nodes that went into it, where the builder tells.
    """

    name: str
    device: Literal["DLA", "GPU"]
    kind: str
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """One capture of a source.

    Attributes:
        pixels: uint8, never written to again; h×w×3 for `rgb` and `bgr`, h×w for `gray`, h×w×4 for
            `rgbx` and `bgrx`, h×w×2 for `yuyv`, (h*3/2)×w for `nv12`. The last four are what cameras
            and decoders deliver: the GPU takes them as they are, the CPU converts them first. A
            surface has the shape of these, and lies where camera and GPU share it.
        format: how to read `pixels`.
        seq: 0, 1, 2, … in the order of capture; a gap is a frame that was captured and dropped.
        captured_ns: monotonic clock at capture.
        truth: what a synthetic scene really contains, in pixels of the frame.
        rate_hz: how fast the source's numbers go by, for whoever plays or records them; None when it
            does not say.
    """

    pixels: NDArray[np.uint8] | Surface
    format: PixelFormat
    seq: int
    captured_ns: int
    truth: Detections | None = None
    rate_hz: float | None = None

    @property
    def data(self) -> NDArray[np.uint8]:
        """The pixels in the host's memory; those of a surface are copied there the first time.

        Raises:
            SourceLostError: the host cannot read the surface.
        """
        return self.pixels.__array__()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        rows, width = self.pixels.shape[:2]
        return width, rows * 2 // 3 if self.format == "nv12" else rows

    def kept(self) -> Frame:
        """Give the frame for whoever keeps it for long: a camera has few surfaces and wants them back."""
        return replace(self, pixels=self.data)


@dataclass(frozen=True, slots=True)
class Detections:
    """Objects of one frame, struct-of-arrays, best score first.

    Attributes:
        boxes: float32 n×4, x1 y1 x2 y2 in pixels of the frame.
        scores: float32 n, 0..1.
        classes: int32 n, index into the pipeline's labels.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, slots=True)
class RawOutput:
    """The network's own output tensors, for tasks that edgetrt does not decode."""

    tensors: Mapping[str, NDArray[np.generic]]


Output = Detections | RawOutput


@dataclass(frozen=True, slots=True)
class Result:
    """What a pipeline says about one frame.

    Attributes:
        pipeline: name of the pipeline.
        frame: the frame it is about.
        output: what the task decoded.
        labels: class names, by index.
        engine: fingerprint of the engine that ran.
        latency_ns: capture to decoded result.
        stages_ns: time in each stage of this frame, by stage name.
        dropped: frames of this pipeline lost so far between source and result.
    """

    pipeline: str
    frame: Frame
    output: Output
    labels: tuple[str, ...]
    engine: str
    latency_ns: int
    stages_ns: Mapping[str, int] = field(default_factory=dict)
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """What a pipeline may use now; read at each frame boundary.

    Attributes:
        rate_hz: frames started per second at most; None = as fast as frames come.
    """

    rate_hz: float | None = None

    def for_demand(self, rate_hz: float | None) -> Grant:
        """As much of this grant as is asked for; None asks for all of it."""
        return Grant(min((r for r in (self.rate_hz, rate_hz) if r is not None), default=None))


@dataclass(frozen=True, slots=True)
class Counters:
    """Frames of one pipeline since it started: done + dropped + refused = read.

    Attributes:
        read: frames the source captured.
        done: frames that became a result.
        dropped: frames overwritten by a newer one before they were looked at.
        refused: frames the session or the task could not handle (wrong output, NaN).
        missed: pacing deadlines that passed before the frame could start.
        unsent: results that a sink did not take, summed over sinks.
        restarts: times the supervisor closed and reopened source and session.
        reconnects: times the source was lost and came back.
    """

    read: int = 0
    done: int = 0
    dropped: int = 0
    refused: int = 0
    missed: int = 0
    unsent: int = 0
    restarts: int = 0
    reconnects: int = 0


@dataclass(frozen=True, slots=True)
class StageStats:
    """Distribution of one stage's time over the last window, in milliseconds."""

    p50_ms: float
    p99_ms: float
    mean_ms: float


@dataclass(frozen=True, slots=True)
class PipelineHealth:
    """How a pipeline does, over the last window.

    Attributes:
        pipeline: its name.
        state: `starting`, `running`, `backoff` (waiting to be reopened), `ended` or `failed`.
        backend: which backend runs the engine.
        engine: fingerprint of the engine.
        fps: results per second over the window.
        latency: capture to result; None before the first result.
        stages: by stage name, in the order of the frame.
        counters: since the start.
        error: the last error in words, empty when there is none.
        objects: objects per frame, mean over the window; None where the task does not count.
        settings: from afar that are in force, by name.
        generation: of the settings that were looked at last; 0 = none.
        unsettled: why those are not in force, empty when they are.
    """

    pipeline: str
    state: str
    backend: str
    engine: str
    fps: float
    latency: StageStats | None
    stages: Mapping[str, StageStats]
    counters: Counters
    error: str = ""
    objects: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    generation: int = 0
    unsettled: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """Whether there is a connection to the broker, and why not.

    `reason` is for people and empty while connected. `taken_over`: the broker gave our place to another
    client with our name.
    """

    connected: bool
    reason: str = ""
    taken_over: bool = False


@dataclass(frozen=True, slots=True)
class Exchange:
    """MQTT 5's question and answer.

    Attributes:
        response_topic: where the answer is asked for; empty when the asker does not say.
        correlation: what tells the answer apart, for the asker alone to understand.
    """

    response_topic: str = ""
    correlation: bytes = b""


@dataclass(frozen=True, slots=True)
class BoardState:
    """How a board does; what it does not tell is left out.

    Attributes:
        power_mode: its name on a Jetson.
        temperatures_c: by thermal zone.
        headroom_c: how much warmer the zone that is nearest to it may get before the board slows itself
            down; 0 or less where it does.
        overcurrents: how often since the boot the board slowed down because it drew too much current.
    """

    power_mode: str | None = None
    temperatures_c: dict[str, float] = field(default_factory=dict)
    headroom_c: float | None = None
    overcurrents: int | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under which conditions something was measured; what the machine does not tell is left out.

    Attributes:
        power_mode: its name on a Jetson.
        clocks_mhz: by device.
        temperatures_c: by thermal zone.
    """

    power_mode: str | None = None
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
