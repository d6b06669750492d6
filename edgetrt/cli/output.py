"""How commands speak: reports on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.markup import escape

from edgetrt.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from edgetrt.errors import EdgetrtError

out = Console()
err = Console(stderr=True)


def print_json(report: Any, console: Console = out) -> None:
    """Print one JSON object, indented, as the only thing on stdout (or on the other console)."""
    stream = sys.stderr if console.stderr else sys.stdout
    stream.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
    stream.flush()


def write_page(path: Path, page: str) -> None:
    """Write a report as a file.

    Raises:
        ConfigError: it cannot be written there.
    """
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written: {error.strerror}",
            "Name a file in a folder that exists and can be written.",
        ) from error


def print_error(error: EdgetrtError) -> None:
    """Say what went wrong and what to do, on stderr."""
    err.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True, highlight=False)
    if error.hint:
        err.print(f"[bold]hint:[/]  {escape(error.hint)}", soft_wrap=True, highlight=False)
