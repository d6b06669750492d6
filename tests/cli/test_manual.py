"""The manual page names every command that there is, and none besides."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from edgetrt.cli import app

MANUAL = Path(__file__).parents[2] / "debian" / "edgetrt.1"


def named() -> set[str]:
    """Commands of the page; `engines ls, show` are two of one group."""
    section = MANUAL.read_text().split(".SH COMMANDS")[1].split(".SH FILES")[0]
    found: set[str] = set()
    for line in re.findall(r"^\.TP\n\.B (.+)$", section, re.MULTILINE):
        first, *rest = line.replace(",", "").split()
        group = "," not in line.split()[0] and rest
        found |= {f"{first} {each}" for each in rest} if group else {first, *rest}
    return found


def there() -> set[str]:
    """Commands of the program that it shows to people."""
    found: set[str] = set()
    for name, command in typer.main.get_group(app).commands.items():
        if command.hidden:
            continue
        below = [n for n, c in getattr(command, "commands", {}).items() if not c.hidden]
        found |= {f"{name} {each}" for each in below} if below else {name}
    return found


def test_the_manual_names_every_command() -> None:
    assert named() == there()
