"""`edgetrt setup`: what can only be made on the device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgetrt.gpu.pycuda_build import Check

app = typer.Typer(name="setup", help="Make what only this device can make.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `setup` a group with one command."""


@app.command()
def pycuda(
    cuda: Annotated[
        Path | None, typer.Option(help="CUDA's folder; default $CUDA_HOME, /usr/local/cuda.")
    ] = None,
    archive: Annotated[
        Path | None, typer.Option(help="PyCUDA's source archive, where there is no network.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder to put it in; default: where edgetrt looks for it.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether everything needed is here.")
    ] = False,
) -> None:
    """Build PyCUDA with this device's nvcc, into edgetrt's own folder; takes some minutes."""
    import tempfile

    from edgetrt.cli.output import out
    from edgetrt.cli.progress import Steps
    from edgetrt.gpu import pycuda_build

    folder = to or pycuda_build.library_folder()
    found = pycuda_build.find_cuda(cuda)
    work = Path(tempfile.gettempdir())
    _tell(pycuda_build.examine(found, work, folder, fetching=archive is None))
    if check or found is None:
        return
    with Steps() as steps, tempfile.TemporaryDirectory(prefix="edgetrt-pycuda-") as temporary:
        steps.say("fetch", f"PyCUDA {pycuda_build.VERSION}")
        source = pycuda_build.unpack(
            archive or pycuda_build.fetch(Path(temporary)), Path(temporary)
        )
        built = pycuda_build.build(source, found, steps.say)
        steps.say("install", str(folder))
        pycuda_build.install(built, folder)
        steps.say("try it out")
        version = pycuda_build.try_out(folder)
    out.print(f"PyCUDA {pycuda_build.VERSION} is in {folder}; the driver speaks CUDA {version}.")


def _tell(checks: list[Check]) -> None:
    """Print what building needs.

    Raises:
        BackendError: something is missing.
    """
    from rich.markup import escape
    from rich.table import Table

    from edgetrt.cli.output import out
    from edgetrt.errors import BackendError

    table = Table(box=None, show_header=False)
    for one in checks:
        mark = "[green]✓[/]" if one.found else "[red]✗[/]"
        table.add_row(mark, one.name, escape(one.found or one.fix))
    out.print(table)
    missing = [one for one in checks if not one.found]
    if missing:
        names = ", ".join(one.name for one in missing)
        raise BackendError(f"PyCUDA cannot be built here; missing: {names}", missing[0].fix)
