"""The command line: one file per command, each a screen long.

Commands import what they need when they run, so that `edgetrt --help` needs none of it.
"""

from __future__ import annotations

import logging
import os
from typing import Annotated

import typer

from edgetrt import __version__, journal
from edgetrt.cli import (
    agent,
    bench,
    build,
    check,
    command,
    demo,
    demo_update,
    deploy,
    doctor,
    engines,
    extras,
    hawkbit,
    inspect,
    mender,
    power,
    provision,
    release,
    rollback,
    run,
    runtime,
    setup,
    status,
    up,
    update,
    verify,
)
from edgetrt.cli.output import err, print_error
from edgetrt.errors import EdgetrtError

app = typer.Typer(
    name="edgetrt",
    help="Put neural networks onto NVIDIA Jetson devices and keep them running there.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for one in (
    run.run,
    inspect.inspect,
    check.check,
    deploy.deploy,
    build.build,
    verify.verify,
    bench.bench,
    rollback.rollback,
    doctor.doctor,
    provision.provision,
    demo.demo,
    demo_update.demo_update,
    up.up,
    status.status,
    command.command,
    agent.agent,
    runtime.runtime,
    hawkbit.hawkbit,
):
    app.command()(one)
app.command(hidden=True)(mender.mender)
app.add_typer(engines.app, name="engines")
app.add_typer(power.app, name="power")
app.add_typer(release.app, name="release")
app.add_typer(update.app, name="update")
app.add_typer(setup.app, name="setup")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgetrt {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say what happens, on stderr.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show Python tracebacks, for bug reports.")
    ] = False,
) -> None:
    """Options before the command; processes that it starts inherit them."""
    for name, wanted in (("EDGETRT_DEBUG", debug), ("EDGETRT_VERBOSE", verbose)):
        if wanted:
            os.environ[name] = "1"
    debug, verbose = bool(os.environ.get("EDGETRT_DEBUG")), bool(os.environ.get("EDGETRT_VERBOSE"))
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    journal.set_up(level)


def main() -> int:
    """Run a command; returns the exit code. No foreign traceback reaches a person without `--debug`."""
    try:
        app()
    except EdgetrtError as error:
        return _told(error)
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except ModuleNotFoundError as error:
        lack = extras.explained(error)
        return _internal(error) if lack is None else _told(lack)
    except Exception as error:  # noqa: BLE001 - the last line before a person; a fault of ours
        return _internal(error)
    return 0


def _internal(error: Exception) -> int:
    return _told(
        EdgetrtError(
            f"internal error: {type(error).__name__}: {error}",
            "This is a fault in edgetrt. Run it again with `edgetrt --debug …` and report the output.",
        )
    )


def _told(error: EdgetrtError) -> int:
    """Say it, with the traceback of the exception at hand where that is wanted."""
    if os.environ.get("EDGETRT_DEBUG"):
        err.print_exception()
    print_error(error)
    return error.exit_code
