"""YAML documents to typed structs; every mistake is told with file, line and key path."""

from __future__ import annotations

import difflib
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import yaml

from edgetrt.errors import ConfigError

T = TypeVar("T", bound=msgspec.Struct)


MAX_VALUES, MAX_DEPTH = 100_000, 50
"""Bounds of a document once its aliases are written out."""

_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}"
    for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "binary")
)


_ONE_BY_ONE = threading.Lock()
"""msgspec looks at a struct's fields when it meets one for the first time; two threads that do so at once
crash in native code. Decoders that are made where their module is imported need no lock."""


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
    except RecursionError:
        raise ConfigError(f"{path}:1: too many values, or nested too deeply") from None
    return Document(path, data, lines)


def convert(document: Document, kind: type[T]) -> T:
    """Turn a parsed document into `kind`; raises ConfigError as `load` does."""
    if not isinstance(document.data, dict):
        raise ConfigError(
            f"{document.path}:1: expected keys and values, got {type(document.data).__name__}"
        )
    try:
        with _ONE_BY_ONE:
            return msgspec.convert(document.data, kind)
    except msgspec.ValidationError as error:
        raise _explain(error, document, kind) from None


def override(section: T, values: dict[str, Any]) -> T:
    """Set some keys of a section from the command line, checked as a file's are.

    Raises:
        ConfigError: a value that the key does not take.
    """
    try:
        return msgspec.convert({**msgspec.to_builtins(section), **values}, type(section))
    except msgspec.ValidationError as error:
        what, at = _taken_apart(error)
        said, _ = _reworded(what, at, _value_at(values, at), type(section))
        option = _dotted(at).replace("_", "-")
        raise ConfigError(f"--{option}: {said}", "See --help.") from None


def place(path: Path, key: str) -> str:
    """`file:line: key` of a key path such as `sinks[0]`; empty when the file has no such key.

    Raises:
        ConfigError: as `parse`.
    """
    line = parse(path).lines.get(f"$.{key}")
    return "" if line is None else f"{path}:{line}: {key}"


def beside(path: Path, value: str) -> Path:
    """Resolve a path written in the file `path`: relative ones are relative to that file."""
    return (path.parent / Path(value).expanduser()).resolve()


def _build(node: yaml.Node, at: str, lines: dict[str, int], path: Path) -> Any:
    """Build plain Python values from a node, noting the line of each key path."""
    line = node.start_mark.line + 1
    lines.setdefault(at, line)
    if node.tag not in _TAGS:
        raise ConfigError(
            f"{path}:{line}: {_dotted(at)}: not valid YAML: tag {node.tag} is not allowed here",
            "Write plain values, lists and keys.",
        )
    if len(lines) > MAX_VALUES or at.count(".") + at.count("[") > MAX_DEPTH:
        raise ConfigError(f"{path}:{line}: too many values, or nested too deeply")
    if isinstance(node, yaml.MappingNode):
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(
                    f"{path}:{line}: {_dotted(at)}: a key is a list or a mapping, expected a word",
                    "Write `key: value`; put quotes around a key with brackets.",
                )
            key = str(key_node.value)
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
    except (ValueError, KeyError) as error:  # the 13th month, an `!!int` of letters
        raise ConfigError(
            f"{path}:{line}: {_dotted(at)}: not valid YAML: {str(node.value)[:60]!r} is no "
            f"{node.tag.rpartition(':')[2]}",
            "Put quotes around it when it is text.",
        ) from error
    finally:
        loader.dispose()


_KEY = re.compile(r"\.([^.\[]+)")
_AT = re.compile(r"(?s)^(?P<what>.*?)(?: - at `(?:key in )?(?P<at>\$[^`]*)`)?$")
_UNKNOWN = re.compile(r"unknown field `(?P<field>[^`]*)`")
_NAME = "[a-z0-9-]{1,63}"
"""What a device and a pipeline may be called, as it stands in msgspec's message."""
_TYPES = re.compile(r"`([^`]*)`")
_FLAT = re.compile(r"(\d)\.0\b")
_POWER = re.compile(r"(?P<digits>[+-]?\d+(\.\d*)?)[eE](?P<sign>[+-]?)(?P<power>\d+)")
_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "keys and values",
}
_MISSING = re.compile(r"missing required field `(?P<field>[^`]*)`")


def _explain(error: msgspec.ValidationError, document: Document, kind: type) -> ConfigError:
    """Turn a msgspec message into `file:line: key.path: what`, hinting at the nearest known key."""
    what, at = _taken_apart(error)
    if unknown := _UNKNOWN.search(what):
        known = _keys_at(kind, at)
        near = difflib.get_close_matches(unknown["field"], known, n=1)
        hint = f"Did you mean `{near[0]}`? " if near else ""
        hint += f"Known keys here: {', '.join(known)}."
        at, what = f"{at}.{unknown['field']}", "unknown key"
    elif missing := _MISSING.search(what):
        at, what, hint = f"{at}.{missing['field']}", "missing", "This key has no default: set it."
    else:
        what, hint = _reworded(what, at, _value_at(document.data, at), kind)
    line = _line(document.lines, at)
    return ConfigError(f"{document.path}:{line}: {_dotted(at)}: {what}", hint)


def _taken_apart(error: msgspec.ValidationError) -> tuple[str, str]:
    """What msgspec says is wrong, and at which key path."""
    match = _AT.match(str(error))
    return (match["what"], match["at"] or "$") if match else (str(error), "$")


def _reworded(what: str, at: str, value: Any, kind: type) -> tuple[str, str]:
    """Say what was expected and what was there; a hint where there is one to give."""
    if what.startswith("Invalid enum value"):
        return f"expected one of {', '.join(_choices_at(kind, at))}, got {value!r}", ""
    if _NAME in what:
        whose = "a device's name" if at == "$.device" else "a name"
        return f"{whose} is lower-case letters, digits and '-', at most 63; got {value!r}", ""
    if "regex" in what:
        form = what.partition("regex ")[2].strip("'")
        return f"{value!r} has not the form that this key takes", f"It has to match {form}"
    wanted = f"{what[0].lower()}{what[1:]}".partition(", got")[0]
    said = _FLAT.sub(r"\1", _TYPES.sub(lambda found: _in_words(found[1]), wanted))
    if isinstance(value, list) and "length" in wanted:
        return f"{said}, got {len(value)}", ""
    return f"{said}, got {_shown(value)}", _how_to_write(wanted, value)


def _in_words(types: str) -> str:
    """A type of msgspec's, in the words of who writes YAML."""
    return " or ".join(_WORDS.get(one, one) for one in types.split(" | ") if one != "null")


def _shown(value: Any) -> str:
    """A value as it was read."""
    if isinstance(value, str):
        return f"the text {value[:60]!r}"
    if isinstance(value, bool):
        return str(value).lower()
    shown = {type(None): "nothing", list: "a list", dict: "keys and values"}.get(type(value))
    return shown or str(value)


def _how_to_write(wanted: str, value: Any) -> str:
    """What to write instead, where that can be said."""
    if "`array" in wanted:
        return "Write a list: [one, two]." if isinstance(value, str) else ""
    if "`str" in wanted:
        return "" if isinstance(value, (str, list, dict)) else f"Put quotes around it: '{value}'."
    if "`object" in wanted:
        return "Write keys below it, indented, or {key: value}."
    power = _POWER.fullmatch(value) if isinstance(value, str) else None
    if power is None:
        return ""
    digits = power["digits"] if "." in power["digits"] else f"{power['digits']}.0"
    number = f"{digits}e{power['sign'] or '+'}{power['power']}"
    return f"YAML reads {value} as text, for want of a point or of a sign: write {number}."


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
    for key in _KEY.findall(at):
        kind = _struct_in(get_type_hints(kind).get(key)) or kind
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def _choices_at(kind: type, at: str) -> list[str]:
    """Values that the key at a key path takes."""
    *sections, last = _KEY.findall(at)
    for key in sections:
        kind = _struct_in(get_type_hints(kind).get(key)) or kind
    return [str(choice) for choice in _literals_in(get_type_hints(kind).get(last))]


def _literals_in(hint: Any) -> list[Any]:
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [choice for arg in get_args(hint) for choice in _literals_in(arg)]


def _struct_in(hint: Any) -> type | None:
    """Find the struct inside `X | None`, `tuple[X, ...]` and the like."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct) and get_origin(hint) is None:
        return hint
    return next((found for arg in get_args(hint) if (found := _struct_in(arg))), None)
