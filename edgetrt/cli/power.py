"""`edgetrt power`: the board's power modes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgetrt.boards.nvpmodel import Power

app = typer.Typer(no_args_is_help=True, help="Show and set the board's power modes.")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def modes(json: Json = False) -> None:
    """List the power modes of this board, by its own table."""
    from rich.table import Table

    from edgetrt.boards.nvpmodel import Power
    from edgetrt.cli.output import out, print_json

    rows = listing(Power())
    if json:
        print_json({"modes": rows})
        return
    table = Table(box=None, pad_edge=False)
    for title in ("", "power mode", "number", ""):
        table.add_column(title)
    for row in rows:
        notes = ["default"] if row["default"] else []
        notes += [f"needs a reboot: {row['reboot']}"] if row["reboot"] else []
        mark = "[green]●[/]" if row["current"] else ""
        table.add_row(mark, str(row["name"]), str(row["number"]), "; ".join(notes))
    out.print(table)


def listing(power: Power) -> list[dict[str, object]]:
    """Every mode, whether the board is in it, and why it would need a reboot."""
    present = power.current()
    return [
        {
            "name": mode.name,
            "number": mode.number,
            "current": mode == present,
            "default": mode.number == power.table.default,
            "reboot": ", ".join(power.reboot(mode)),
        }
        for mode in power.table.modes
    ]


@app.command()
def show(json: Json = False) -> None:
    """Tell the power mode, the clocks and the temperatures of this moment."""
    from edgetrt.boards.conditions import conditions
    from edgetrt.cli.output import out, print_json

    now = conditions()
    if json:
        print_json(now)
        return
    out.print(f"power mode  {now.power_mode or '[dim]not told by this machine[/]'}")
    for title, values, unit in (
        ("clocks", now.clocks_mhz, "MHz"),
        ("temperatures", now.temperatures_c, "°C"),
    ):
        if values:
            told = ", ".join(f"{name} {value:g}" for name, value in values.items())
            out.print(f"{title}  {told} {unit}", highlight=False)


@app.command(name="set")
def set_mode(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `edgetrt power modes` lists it.")],
    json: Json = False,
) -> None:
    """Enter a power mode; needs root. One that needs a reboot is refused."""
    from edgetrt.boards.nvpmodel import Power
    from edgetrt.cli.output import out, print_json
    from edgetrt.clock import SystemClock

    changed = Power().set(name, SystemClock().monotonic_ns())
    if json:
        print_json({"mode": name, "changed": changed})
    else:
        out.print(f"power mode {name}{'' if changed else ': it was already'}", highlight=False)
