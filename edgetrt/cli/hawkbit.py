"""`edgetrt hawkbit`: a device of a hawkBit server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetrt.cli.handing import open_handover
from edgetrt.cli.output import print_error
from edgetrt.cli.runtime import DEFAULT_CONFIG

if TYPE_CHECKING:
    from edgetrt.cli.handing import Opened


def hawkbit(
    url: Annotated[str, typer.Option(help="The server, as https://hawkbit.example.org.")],
    token_file: Annotated[Path, typer.Option(help="File with the token, mode 0600.")],
    tenant: Annotated[str, typer.Option(help="As at the server.")] = "DEFAULT",
    controller: Annotated[
        str | None, typer.Option(help="This device's id there; default: its name.")
    ] = None,
    gateway: Annotated[
        bool, typer.Option("--gateway", help="The token is a gateway's, not this target's.")
    ] = False,
    ca_file: Annotated[Path | None, typer.Option(help="Certificates to trust.")] = None,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", help="Plain http; the token can be read on the way.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Ask once, and end.")] = False,
    config: Annotated[Path, typer.Option(help="The device's agent.yaml.")] = DEFAULT_CONFIG,
    folder: Annotated[
        Path | None, typer.Option(help="Folder of updates; default: this device's.")
    ] = None,
) -> None:
    """Take bundles from a hawkBit server (DDI), and tell it how they went."""
    import signal
    import threading

    from edgetrt import children
    from edgetrt.update import durable
    from edgetrt.update.ddi import Ddi, token
    from edgetrt.update.hawkbit import Hawkbit

    opened = open_handover(config, folder, 60.0)
    ddi = Ddi(
        url,
        tenant,
        controller or opened.device,
        token(token_file),
        gateway=gateway,
        allow_http=allow_http,
        ca_file=ca_file,
    )
    # All that it does is below the folder of updates or at the server.
    with durable.as_owner(opened.folder):
        children.follow_parent()  # here: whoever becomes another forgets whom to follow
        client = Hawkbit(ddi, opened.handover, opened.folder, lambda: _attributes(opened))
        if once:
            client.poll()
            return
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        client.run(stop, print_error)


def _attributes(opened: Opened) -> dict[str, str]:
    """What an operator can filter devices by."""
    from edgetrt import __version__
    from edgetrt.boards import jetson
    from edgetrt.update.layout import Layout

    board = jetson.identify()
    return {
        "edgetrt.device": opened.device,
        "edgetrt.version": __version__,
        "edgetrt.serves": Layout(opened.folder).current(),
        "edgetrt.board": (board and board.part_number) or "",
        "edgetrt.l4t": (board and board.l4t) or "",
    }
