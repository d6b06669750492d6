"""What can be configured: one struct per file and per section.

Relative paths in a file are relative to that file. Unknown keys are refused with the nearest known
one.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

import msgspec

from edgetrt.errors import ConfigError

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,63}$")]
"""Of a device or a pipeline; safe as an MQTT topic level and as a file name."""

Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
Unit = Annotated[float, msgspec.Meta(ge=0, le=1)]
BackendName = Literal["auto", "tensorrt", "onnxruntime", "openvino"]


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every config section is: frozen, and strict about its keys."""


class PreprocessConfig(Struct, frozen=True):
    """How a frame becomes the input tensor. Unset = as the model's metadata or its kind says.

    `scale`, `mean` and `std` give `(pixel * scale - mean) / std`, in the order of `color`. `pad` is
    the letterbox's grey, 0..255.
    """

    resize: Literal["letterbox", "stretch", "crop"] = "letterbox"
    color: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["auto", "nchw", "nhwc"] = "auto"
    scale: Positive = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    pad: Annotated[int, msgspec.Meta(ge=0, le=255)] = 114


class TaskConfig(Struct, frozen=True):
    """What the network does and which of its answers count.

    `kind: auto` reads the task from the model. `score` and `iou` are the limits of the detection:
    lower scores are left out, and of two boxes of a class that overlap more than `iou` the weaker
    one goes.
    """

    kind: Literal["auto", "detect", "raw"] = "auto"
    score: Unit = 0.25
    iou: Unit = 0.6
    max_objects: Annotated[int, msgspec.Meta(ge=1)] = 300
    labels: tuple[str, ...] | None = None
    only: tuple[str, ...] | None = None


class AccuracyConfig(Struct, frozen=True):
    """How far an optimised engine may fall behind ONNX Runtime FP32 on the user's own frames."""

    max_loss: Unit = 0.01


class RecipeConfig(Struct, frozen=True):
    """`engines/<name>/recipe.yaml`: how to make one engine from one network.

    `dla` is the DLA core to build for; less than `dla_coverage` of the work fitting it is refused, and
    with `strict` so is any compute layer that stays on the GPU.
    """

    model: str
    task: TaskConfig = TaskConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    precision: Literal["auto", "fp32", "fp16", "int8"] = "auto"
    dla: Annotated[int, msgspec.Meta(ge=0, le=1)] | None = None
    dla_coverage: Unit = 0.5
    strict: bool = False
    accuracy: AccuracyConfig = AccuracyConfig()


class PipelineConfig(Struct, frozen=True):
    """`pipelines.d/<name>.yaml`: a source, a network, and where its results go.

    `model` is an ONNX file or a recipe; `task` and `preprocess` override the recipe's. `sinks` are
    URIs (`jsonl:`, `video:`, `image:`); results always go to the agent as well when there is one.
    `depth` 2 prepares a frame while the one before it runs.
    """

    name: Name
    model: str
    source: str
    sinks: tuple[str, ...] = ()
    backend: BackendName = "auto"
    threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    rate_hz: Positive | None = None
    depth: Annotated[int, msgspec.Meta(ge=1, le=4)] = 2
    task: TaskConfig | None = None
    preprocess: PreprocessConfig | None = None


class BrokerConfig(Struct, frozen=True):
    """Where the MQTT broker is and who we are to it. Secrets are files, never values."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 1883
    username: str | None = None
    password_file: str | None = None
    tls: bool | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    keepalive_s: Annotated[int, msgspec.Meta(ge=5, le=3600)] = 30


class PublishConfig(Struct, frozen=True):
    """What goes to the broker, and how often at most. `result_hz` unset = every result."""

    result_hz: Positive | None = None
    health_s: Positive = 5.0


class DeviceConfig(Struct, frozen=True):
    """`agent.yaml`: this device. `pipelines` is a folder of pipeline files or a list of files."""

    device: Name | None = None
    broker: BrokerConfig = BrokerConfig()
    publish: PublishConfig = PublishConfig()
    pipelines: tuple[str, ...] = ("pipelines.d",)


def backend(text: str) -> BackendName:
    """Read a backend's name.

    Raises:
        ConfigError: there is none of that name.
    """
    try:
        name: BackendName = msgspec.convert(text, BackendName)
    except msgspec.ValidationError:
        raise ConfigError(
            f"--backend {text!r}: no such backend", f"One of {', '.join(get_args(BackendName))}."
        ) from None
    return name


def broker(text: str) -> BrokerConfig:
    """Read `HOST` or `HOST:PORT`; an IPv6 address stands in brackets.

    Raises:
        ConfigError: neither.
    """
    match = re.fullmatch(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:\[\]]+)(?::(?P<port>\d{1,5}))?", text)
    if match is None or not 1 <= int(match["port"] or 1883) <= 65535:
        raise ConfigError(
            f"--broker {text!r}: expected HOST or HOST:PORT", "For example localhost:1883."
        )
    return BrokerConfig(host=match["host"].strip("[]"), port=int(match["port"] or 1883))
