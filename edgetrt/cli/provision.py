"""`edgetrt provision`: give this device its identity, and its broker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from edgetrt.cli.output import out, print_json
from edgetrt.cli.runtime import DEFAULT_CONFIG
from edgetrt.errors import ConfigError

if TYPE_CHECKING:
    from edgetrt.provision import Provisioned, Requested


def provision(
    broker: Annotated[
        str | None, typer.Option(help="HOST or HOST:PORT; port 8883 when left out.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificate of the site's CA, PEM.")] = None,
    cert: Annotated[
        Path | None, typer.Option(help="The device's certificate, signed by it.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="Its key; left out: the one that --csr made here.")
    ] = None,
    csr: Annotated[
        bool, typer.Option("--csr", help="Make a key here, and a request for the CA to sign.")
    ] = False,
    token: Annotated[
        Path | None, typer.Option(help="File with a one-time token, for an enrolment service.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Its name; left out: as configured, requested, or the host's."),
    ] = None,
    config: Annotated[Path, typer.Option(help="The device's agent.yaml.")] = DEFAULT_CONFIG,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Give this device a key, a certificate and its broker; nothing is written before all of it works."""
    from edgetrt import provision as steps

    _check(broker, ca, cert, key, csr, token)
    if token is not None:
        steps.token(token)
    elif csr:
        asked = steps.request(config, device)
        print_json(_plain(asked)) if json else _print_request(asked)
    elif broker is not None and ca is not None:
        done = steps.provision(config, broker, ca, cert, key, device)
        print_json(_plain(done)) if json else _print_done(done)


def _check(
    broker: str | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    csr: bool,
    token: Path | None,
) -> None:
    """Say which options do not go together."""
    if sum((cert is not None, csr, token is not None)) > 1:
        raise ConfigError("--cert, --csr and --token are three ways", "Choose one.")
    if key is not None and cert is None:
        raise ConfigError("--key: there is no certificate for it", "Name it with --cert.")
    if not csr and token is None and (broker is None or ca is None):
        missing = "--broker" if broker is None else "--ca"
        raise ConfigError(
            f"{missing} is missing",
            "edgetrt provision --broker HOST --ca FILE --cert FILE, or --csr.",
        )


def _plain(report: Requested | Provisioned) -> Any:
    """Values that JSON knows; paths as text."""
    import msgspec

    return msgspec.to_builtins(report, enc_hook=str)


def _print_request(asked: Requested) -> None:
    out.print(
        f"[bold]{asked.device}[/]: request in {asked.request}, key in {asked.key} (stays here)\n"
        f"  Have it signed by the site's CA, then: edgetrt provision --broker HOST --ca FILE "
        "--cert FILE",
        highlight=False,
        soft_wrap=True,
    )


def _print_done(done: Provisioned) -> None:
    said = done.broker
    lines = [f"[bold]{done.device}[/]: {said.where} accepted it, {said.tls or 'without TLS'}"]
    if said.server:
        lines.append(
            f"  broker      {escape(said.server)}, its certificate until {said.server_expires}"
        )
    if (mine := done.certificate) is not None:
        lines.append(
            f"  certificate until {mine.expires:%Y-%m-%d %H:%M} UTC, signed by {escape(mine.issuer)}"
        )
    lines.append(
        f"  written     {done.config}" + (f", before: {done.previous}" if done.previous else "")
    )
    lines.append("  Now: sudo systemctl restart edgetrt-agent")
    out.print("\n".join(lines), highlight=False, soft_wrap=True)
