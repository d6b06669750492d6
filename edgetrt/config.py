"""YAML files to typed structs; every mistake is told with file, line and key path.

Relative paths in a file are relative to that file. Unknown keys are refused with the nearest known
one.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import yaml

from edgetrt.errors import ConfigError

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,63}$")]
"""Of a device or a pipeline; safe as an MQTT topic level and as a file name."""

Positive = Annotated[float, msgspec.Meta(gt=0)]
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
    """`engines/<name>/recipe.yaml`: how to make one engine from one network."""

    model: str
    task: TaskConfig = TaskConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    precision: Literal["auto", "fp32", "fp16", "int8"] = "auto"
    dla: Annotated[int, msgspec.Meta(ge=0, le=1)] | None = None
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


T = TypeVar("T", bound=Struct)


@dataclass(frozen=True)
class Document:
    """A parsed YAML file that remembers on which line each value stands."""

    path: Path
    data: Any
    lines: dict[str, int]


def load(path: Path, kind: type[T]) -> T:
    """Read a YAML file into `kind`.

    Raises:
        ConfigError: unreadable, not YAML, an unknown key, a wrong type or a value out of range; the
            message starts with `file:line: key.path`.
    """
    return convert(parse(path), kind)


def parse(path: Path) -> Document:
    """Read a YAML file with safe tags only.

    Raises:
        ConfigError: the file cannot be read, is not UTF-8, or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", "Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[str, int] = {}
        data = {} if node is None else _build(node, "$", lines, path)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(
            f"{path}:{line}: not valid YAML: {error.problem or error.context}",
            "Check the indentation and the quotes around this line.",
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}:1: not valid YAML: {error}") from error
    return Document(path, data, lines)


def convert(document: Document, kind: type[T]) -> T:
    """Turn a parsed document into `kind`; raises ConfigError as `load` does."""
    if not isinstance(document.data, dict):
        raise ConfigError(
            f"{document.path}:1: expected keys and values, got {type(document.data).__name__}"
        )
    try:
        return msgspec.convert(document.data, kind)
    except msgspec.ValidationError as error:
        raise _explain(error, document, kind) from None


def beside(path: Path, value: str) -> Path:
    """Resolve a path written in the file `path`: relative ones are relative to that file."""
    return (path.parent / Path(value).expanduser()).resolve()


def _build(node: yaml.Node, at: str, lines: dict[str, int], path: Path) -> Any:
    """Build plain Python values from a node, noting the line of each key path."""
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in out:
                raise ConfigError(
                    f"{path}:{line}: {_dotted(f'{at}.{key}')}: written twice",
                    f"It was set on line {lines[f'{at}.{key}']}; keep one of the two.",
                )
            lines[f"{at}.{key}"] = line
            out[key] = _build(value_node, f"{at}.{key}", lines, path)
        return out
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, f"{at}[{i}]", lines, path) for i, item in enumerate(node.value)]
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    finally:
        loader.dispose()


_AT = re.compile(r"(?s)^(?P<what>.*?)(?: - at `(?:key in )?(?P<at>\$[^`]*)`)?$")
_UNKNOWN = re.compile(r"unknown field `(?P<field>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<field>[^`]*)`")


def _explain(error: msgspec.ValidationError, document: Document, kind: type) -> ConfigError:
    """Turn a msgspec message into `file:line: key.path: what`, hinting at the nearest known key."""
    match = _AT.match(str(error))
    what, at = (match["what"], match["at"] or "$") if match else (str(error), "$")
    hint = ""
    if unknown := _UNKNOWN.search(what):
        known = _keys_at(kind, at)
        near = difflib.get_close_matches(unknown["field"], known, n=1)
        hint = f"Did you mean `{near[0]}`? " if near else ""
        hint += f"Known keys here: {', '.join(known)}."
        at, what = f"{at}.{unknown['field']}", "unknown key"
    elif missing := _MISSING.search(what):
        at, what, hint = f"{at}.{missing['field']}", "missing", "This key has no default: set it."
    else:
        what = f"{what[0].lower()}{what[1:]}"
        value = _value_at(document.data, at)
        if value is not None and "got" not in what:
            what += f", got {value!r}"
        if "regex" in what:
            hint = "Use lower-case letters, digits and '-', 63 characters at most."
    line = _line(document.lines, at)
    return ConfigError(f"{document.path}:{line}: {_dotted(at)}: {what}", hint)


def _line(lines: dict[str, int], at: str) -> int:
    """Line of a key path, or of the nearest enclosing one."""
    while at not in lines and at != "$":
        at = re.sub(r"(\.[^.\[]*|\[[^\]]*\])$", "", at) or "$"
    return lines.get(at, 1)


def _dotted(at: str) -> str:
    return at.removeprefix("$").removeprefix(".") or "(top level)"


def _value_at(data: Any, at: str) -> Any:
    for key, index in re.findall(r"\.([^.\[]+)|\[(\d+)\]", at):
        try:
            data = data[key] if key else data[int(index)]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _keys_at(kind: type, at: str) -> list[str]:
    """Keys that the struct at a key path knows."""
    for key in re.findall(r"\.([^.\[]+)", at):
        kind = _struct_in(get_type_hints(kind).get(key)) or kind
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def _struct_in(hint: Any) -> type | None:
    """Find the struct inside `X | None`, `tuple[X, ...]` and the like."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct) and get_origin(hint) is None:
        return hint
    return next((found for arg in get_args(hint) if (found := _struct_in(arg))), None)
