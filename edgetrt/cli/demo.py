"""`edgetrt demo`: the whole product on one screen."""

from __future__ import annotations

from typing import Annotated

import typer


def demo(
    headless: Annotated[bool, typer.Option(help="No live view, only the summary.")] = False,
) -> None:
    """X."""
