"""One section of a YAML file replaced, and every other byte of it kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from edgetrt.errors import ConfigError


def replaced(text: str, path: Path, values: dict[str, Any]) -> str:
    """Set top-level keys in a YAML text.

    The lines of a key that stands there are replaced, with the comments between them; all other lines
    stay as they are. A key that is not there is added at the end.

    Args:
        text: of the file, which is valid YAML.
        path: of the file, for people.
        values: by key.

    Raises:
        ConfigError: the file is not made of keys and values, or one of these keys is an alias.
    """
    for key, value in values.items():
        text = _with(text, path, key, value)
    return text


def _with(text: str, path: Path, key: str, value: Any) -> str:
    block = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True)
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{block}"
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise ConfigError(
            f"{path}: expected keys and values, one a line", "Write `broker:` on a line of its own."
        )
    lines = text.splitlines(keepends=True)
    for name, node in root.value:
        if name.value != key:
            continue
        if node.start_mark.index < name.end_mark.index:
            raise ConfigError(f"{path}: {key}: is an alias (`*…`)", "Write its keys out.")
        first, last = name.start_mark.line, _last_line(node, name.start_mark.line)
        return "".join([*lines[:first], block, *lines[last + 1 :]])
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return "".join([*lines, "\n", block])


def _last_line(node: yaml.Node, at_least: int) -> int:
    """Where the last value of a node stands; comments behind it belong to what follows."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        inner = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode) and not node.flow_style:
        inner = list(node.value)
    else:
        end = node.end_mark
        line = end.line - 1 if end.column == 0 and end.line > node.start_mark.line else end.line
        return max(at_least, line)
    return max([at_least, *(_last_line(part, at_least) for part in inner)])
