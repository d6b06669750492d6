"""What can be configured: one struct per file and per section.

Relative paths in a file are relative to that file. Unknown keys are refused with the nearest known
one.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

import msgspec

from edgetrt.errors import ConfigError

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,63}\Z")]
"""Of a device or a pipeline; safe as an MQTT topic level and as a file name."""

Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
Side = Annotated[int, msgspec.Meta(ge=1, le=65536)]
Unit = Annotated[float, msgspec.Meta(ge=0, le=1)]
OVER_MQTT = "mqtt"
"""Stands for the address of a repository that is fetched from through the broker."""
CREDENTIAL = "credential:"
"""What starts the name of a file in systemd's folder of credentials, as in `credential:device.key`."""

BackendName = Literal["auto", "tensorrt", "onnxruntime", "openvino"]


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every config section is: frozen, and strict about its keys."""


class PreprocessConfig(Struct, frozen=True):
    """How a frame becomes the input tensor. Unset = as the model's metadata or its kind says.

    `scale`, `mean` and `std` give `(pixel * scale - mean) / std`, in the order of `color`. `pad` is
    the letterbox's grey, 0..255. `input_size` is height and width in pixels, for a network whose file
    leaves them open. docs/recipes.md has them all.
    """

    resize: Literal["letterbox", "stretch", "crop"] = "letterbox"
    color: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["auto", "nchw", "nhwc"] = "auto"
    scale: Positive = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    pad: Annotated[int, msgspec.Meta(ge=0, le=255)] = 114
    input_size: tuple[Side, Side] | None = None


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


class PipelineSettings(Struct, frozen=True):
    """What the control plane may change of a pipeline while it runs. Unset = as its file says.

    `enabled: false` stops it; `score`, `iou`, `max_objects` and `only` are those of `TaskConfig`.
    """

    enabled: bool | None = None
    rate_hz: Positive | None = None
    score: Unit | None = None
    iou: Unit | None = None
    max_objects: Annotated[int, msgspec.Meta(ge=1)] | None = None
    only: tuple[str, ...] | None = None


class BrokerConfig(Struct, frozen=True):
    """Where the MQTT broker is and who we are to it. Secrets are files, never values.

    `others` are brokers (`HOST` or `HOST:PORT`, same login) tried in turn when this one is away.
    A file `credential:NAME` is one of systemd's credentials of the service. `spread_s`: after a boot
    the first attempt waits up to this long, so that a site does not come back all at once.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 1883
    others: tuple[str, ...] = ()
    spread_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 30.0
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


class KeepConfig(Struct, frozen=True):
    """How much of one class of messages waits for the broker, and how long, at most."""

    max_mb: Positive
    max_age_s: Positive


class OutboxConfig(Struct, frozen=True):
    """What waits while there is no broker. Beyond a limit the oldest of the lowest class goes first.

    `store: memory` writes nothing to the disk. `max_mb` is for all classes together, `memory_mb` for
    what is not on the disk (yet). What waited is sent at `historical_hz`, after what is new; unset =
    as fast as the broker takes it. `commit_s` is how much a power cut may cost. `unheard` is about what
    the broker took while nobody subscribed: `keep` it until someone does, or let it go. A disk with less
    than `leave_free_mb` gets nothing more: others need it, and so does the removal of what was sent.
    """

    store: Literal["disk", "memory"] = "disk"
    max_mb: Positive = 256.0
    leave_free_mb: Annotated[float, msgspec.Meta(ge=0)] = 64.0
    memory_mb: Positive = 4.0
    commit_s: Positive = 1.0
    historical_hz: Positive | None = 500.0
    unheard: Literal["keep", "drop"] = "keep"
    event: KeepConfig = KeepConfig(max_mb=32.0, max_age_s=30 * 86400.0)
    health: KeepConfig = KeepConfig(max_mb=64.0, max_age_s=14 * 86400.0)
    result: KeepConfig = KeepConfig(max_mb=256.0, max_age_s=7 * 86400.0)


class HealthConfig(Struct, frozen=True):
    """From where on the device is called degraded.

    `rate` is the share of a pipeline's demanded rate it must reach, `refused` the share of frames
    that may be refused, `dropped` the share that may be dropped where no rate is demanded.
    `offline_s` is how long the broker may be away, or an update unable to be looked at.
    `headroom_c` is how far in degrees the board should stay from where it slows itself down. `agent_mb`
    is without updates; an agent that takes releases may hold 30 more.
    """

    rate: Unit = 0.8
    latency_ms: Positive | None = None
    refused: Unit = 0.01
    dropped: Unit = 0.5
    restarts_per_h: Positive = 3.0
    silent_s: Positive = 15.0
    offline_s: Positive = 60.0
    agent_mb: Positive = 60.0
    memory_free: Unit = 0.05
    disk_free: Unit = 0.05
    outbox: Unit = 0.8
    headroom_c: Annotated[float, msgspec.Meta(ge=0, le=100)] = 5.0


class MetricsConfig(Struct, frozen=True):
    """Health for Prometheus, at `http://127.0.0.1:<port>/metrics`; off when no port is given."""

    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None


class UpdateConfig(Struct, frozen=True):
    """Where releases come from. Without a repository they come in bundles only.

    `repository` is the address of its `public` folder, `mirrors` those of others with the same files;
    the word `mqtt` instead of one is whoever serves it at this device's broker, and `chunk_kb` how much
    is asked for at a time there. `root` is the first root metadata, which the device trusts from the
    start. `allow_http` takes plain http from other machines; `trust_clock` takes the clock's word where
    there is no time source.
    """

    root: str
    repository: str | None = None
    mirrors: tuple[str, ...] = ()
    chunk_kb: Annotated[int, msgspec.Meta(ge=1, le=128)] = 64
    ca_file: str | None = None
    allow_http: bool = False
    trust_clock: bool = False


CommandName = Literal["ping", "doctor", "snapshot", "logs", "restart-pipeline", "bench", "collect"]


class ControlConfig(Struct, frozen=True):
    """What the device lets itself be told over MQTT.

    `commands` are those that it does; an empty list takes none. `unsigned_settings` takes settings of
    pipelines from whoever may publish them, and counts only where there is no `update`: a device with a
    trust root takes signed ones alone.
    """

    commands: tuple[CommandName, ...] = get_args(CommandName)
    unsigned_settings: bool = False


class HomeAssistantConfig(Struct, frozen=True):
    """Announce the device to Home Assistant; `prefix` is that of its MQTT discovery."""

    prefix: Annotated[
        str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*\Z", max_length=100)
    ] = "homeassistant"


class DeviceConfig(Struct, frozen=True):
    """`agent.yaml`: this device. `pipelines` is a folder of pipeline files or a list of files."""

    device: Name | None = None
    broker: BrokerConfig = BrokerConfig()
    publish: PublishConfig = PublishConfig()
    outbox: OutboxConfig = OutboxConfig()
    health: HealthConfig = HealthConfig()
    metrics: MetricsConfig = MetricsConfig()
    control: ControlConfig = ControlConfig()
    update: UpdateConfig | None = None
    home_assistant: HomeAssistantConfig | None = None
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
    """Read `HOST` or `HOST:PORT` of the command line, as `address` does."""
    host, port = address(text, "--broker")
    return BrokerConfig(host=host, port=port)


def address(text: str, what: str) -> tuple[str, int]:
    """Read `HOST` or `HOST:PORT`; an IPv6 address stands in brackets.

    Raises:
        ConfigError: neither.
    """
    match = re.fullmatch(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:\[\]]+)(?::(?P<port>\d{1,5}))?", text)
    if match is None or not 1 <= int(match["port"] or 1883) <= 65535:
        raise ConfigError(
            f"{what} {text!r}: expected HOST or HOST:PORT", "For example localhost:1883."
        )
    return match["host"].strip("[]"), int(match["port"] or 1883)
