"""`edgetrt engines`: what lies in this device's engine cache."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from edgetrt.cli.output import out, print_json
from edgetrt.errors import ConfigError, EngineMismatchError

if TYPE_CHECKING:
    from edgetrt.engine.cache import Cache
    from edgetrt.engine.manifest import Entry

app = typer.Typer(
    help="List, show, verify and remove the engines of this device.", no_args_is_help=True
)

CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="Folder of the cache, instead of this user's.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
EngineArgument = Annotated[str, typer.Argument(help="Fingerprint, or the beginning of one.")]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_SPANS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@app.command("ls")
def ls(cache: CacheOption = None, json: JsonOption = False) -> None:
    """List the engines, the one used last first."""
    rows = _open(cache).ls()
    if json:
        print_json({"engines": [_row(row) for row in rows]})
        return
    if not rows:
        out.print("No engines. `edgetrt deploy MODEL.onnx` makes one.")
        return
    from rich.table import Column, Table

    table = Table(
        Column("engine", min_width=12),
        "model",
        "toolchain",
        "precision",
        "size",
        "last used",
        "state",
    )
    for row in rows:
        told = _row(row)
        table.add_row(
            row.fingerprint[:12],
            escape(str(told["name"] or "")),
            str(told["toolchain"] or ""),
            str(told["precision"] or ""),
            f"{row.size / 1e6:.1f} MB",
            str(told["last_used"]),
            f"[red]{escape(row.problem)}[/red]" if row.problem else "ok",
        )
    out.print(table)


@app.command("show")
def show(engine: EngineArgument, cache: CacheOption = None, json: JsonOption = False) -> None:
    """Print the manifest of one engine."""
    import msgspec

    store = _open(cache)
    row = _find(store, engine)
    if row.manifest is None:
        raise EngineMismatchError(
            f"engine {row.fingerprint[:12]} does not verify: {row.problem}",
            f"Remove it: edgetrt engines rm {row.fingerprint[:12]}",
        )
    manifest = msgspec.to_builtins(row.manifest)
    if json:
        print_json(manifest)
        return
    for key, value in manifest.items():
        if isinstance(value, dict):
            out.print(f"[bold]{key}[/bold]")
            for name, part in sorted(value.items()):
                out.print(f"  {name}: {part}", markup=False, highlight=False)
        else:
            out.print(f"[bold]{key}[/bold]: {value}", highlight=False)


@app.command("rm")
def rm(
    engines: Annotated[list[str], typer.Argument(help="Fingerprints, or their beginnings.")],
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Remove engines."""
    store = _open(cache)
    rows = [_find(store, engine) for engine in engines]
    for row in rows:
        store.rm(row.fingerprint)
    _tell_removed(rows, json)


@app.command("gc")
def gc(
    max_size: Annotated[
        str | None, typer.Option(help="Keep at most so much, as 2G or 500M.")
    ] = None,
    max_age: Annotated[
        str | None, typer.Option(help="Keep what was used within this time, as 30d or 12h.")
    ] = None,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Remove what was not used for longest; engines that serve, and those before them, stay."""
    if max_size is None and max_age is None:
        raise ConfigError(
            "gc needs a limit: neither --max-size nor --max-age was given",
            "For example: edgetrt engines gc --max-age 30d.",
        )
    from edgetrt.app.serving import kept_engines

    size = None if max_size is None else quantity(max_size, _UNITS, "--max-size")
    age = None if max_age is None else quantity(max_age, _SPANS, "--max-age")
    removed = _open(cache).gc(None if size is None else int(size), age, keep=kept_engines())
    _tell_removed(removed, json)


@app.command("verify")
def verify(
    engines: Annotated[
        list[str] | None, typer.Argument(help="Fingerprints; all engines when none is given.")
    ] = None,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Check every byte of the engines; a changed one is moved aside and the exit code says so."""
    store = _open(cache)
    rows = [_find(store, engine) for engine in engines] if engines else store.ls()
    problems: dict[str, str] = {}
    for row in rows:
        try:
            store.open(row.fingerprint)
        except EngineMismatchError as error:
            problems[row.fingerprint] = error.message
    if json:
        print_json({"verified": len(rows) - len(problems), "problems": problems})
    else:
        for message in problems.values():
            out.print(f"[red]{escape(message)}[/red]", highlight=False)
        out.print(f"{len(rows) - len(problems)} of {len(rows)} engines verified")
    if problems:
        raise typer.Exit(EngineMismatchError.exit_code)


def quantity(text: str, units: dict[str, int], option: str) -> float:
    """`2G` or `30d` as a number of the smallest unit.

    Raises:
        ConfigError: not a number with one of the units.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower().removesuffix("b"))
    if found is None or found[2] not in units:
        known = ", ".join(unit for unit in units if unit)
        raise ConfigError(f"{option} {text}: expected a number and one of {known}")
    return float(found[1]) * units[found[2]]


def _open(folder: Path | None) -> Cache:
    from edgetrt.engine.cache import Cache, default_root

    return Cache(folder or default_root())


def _find(store: Cache, prefix: str) -> Entry:
    """The one engine whose fingerprint begins so."""
    rows = [row for row in store.ls() if row.fingerprint.startswith(prefix.lower())]
    if len(rows) == 1:
        return rows[0]
    found = f"{len(rows)} engines begin so" if rows else "no engine begins so"
    raise EngineMismatchError(
        f"{prefix}: {found}", "See `edgetrt engines ls`; give more digits when there are several."
    )


def _row(row: Entry) -> dict[str, Any]:
    """One engine as it is listed; what is unknown is null."""
    fields = row.manifest.fields if row.manifest else {}
    info = row.manifest.info if row.manifest else {}
    flavour, version = fields.get("toolchain.flavour"), fields.get("toolchain.version")
    return {
        "fingerprint": row.fingerprint,
        "name": info.get("name"),
        "toolchain": f"{flavour} {version}" if flavour else None,
        "precision": info.get("precision") or fields.get("spec.precision"),
        "dla": fields.get("spec.dla"),
        "size": row.size,
        "last_used": time.strftime("%Y-%m-%d %H:%M", time.localtime(row.used_s)),
        "problem": row.problem or None,
    }


def _tell_removed(rows: list[Entry], json: bool) -> None:
    freed = sum(row.size for row in rows)
    if json:
        print_json({"removed": [row.fingerprint for row in rows], "freed": freed})
    else:
        out.print(f"removed {len(rows)} engines, {freed / 1e6:.1f} MB")
