"""`edgetrt rollback`: the engine before."""

from __future__ import annotations

from typing import Annotated

import typer


def rollback(
    pipeline: Annotated[str, typer.Argument(help="Name of a deployed pipeline.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Let the engine that a pipeline ran before serve again."""
    from edgetrt.cli.output import out, print_json
    from edgetrt.deploy import activation

    record, state, detail = activation.rollback(pipeline)
    if json:
        print_json({"pipeline": pipeline, "state": state, "detail": detail, "record": record})
        return
    engine = record.current
    out.print(
        f"[bold]{pipeline}[/]: {engine.precision} on {engine.backend} of {engine.deployed_at}, {state}"
        f"  [dim]{engine.fingerprint[:12]}[/]\n  {detail}",
        highlight=False,
    )
