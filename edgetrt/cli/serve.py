"""`edgetrt release serve`: a repository through the broker, for sites whose devices have no HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgetrt.config import BrokerConfig
    from edgetrt.update.tree import Tree

CLIENT_ID = "edgetrt.repository"
"""With a dot, which no device's name has; also the common name of its certificate."""


def serve(
    tree: Annotated[
        Path, typer.Argument(help="Folder `public` of a repository, or a copy of it.")
    ] = Path("repository/public"),
    broker: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where the broker is.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="File like agent.yaml whose `broker` is used, with its login."),
    ] = None,
    device_mbit: Annotated[
        float, typer.Option(min=0.0, help="For one device at most, in Mbit/s; 0: no limit.")
    ] = 32.0,
) -> None:
    """Let devices with `repository: mqtt` fetch these files through the broker, until ended."""
    import asyncio
    import contextlib

    from edgetrt import children
    from edgetrt.cli.command import named_broker
    from edgetrt.cli.output import err
    from edgetrt.update.tree import Tree

    children.follow_parent()
    where: BrokerConfig = named_broker(broker, config)
    with contextlib.closing(Tree(tree)) as served:
        err.print(f"Serves {tree} through {where.host}:{where.port}.", soft_wrap=True)
        asyncio.run(_serve(where, served, device_mbit * 1e6 / 8))


async def _serve(broker: BrokerConfig, tree: Tree, device_bytes_s: float) -> None:
    """Serve until SIGTERM or SIGINT."""
    import asyncio
    import signal

    from edgetrt import wire
    from edgetrt.mqtt import MqttTransport, Settings
    from edgetrt.update.serve import ChunkServer

    transport = MqttTransport(
        broker,
        CLIENT_ID,
        subscriptions=(wire.FETCHES,),
        settings=Settings(session_expiry_s=0),
    )
    async with transport:
        serving = asyncio.create_task(ChunkServer(tree, transport, device_bytes_s).run())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, serving.cancel)
        await asyncio.wait([serving])
    if not serving.cancelled():
        serving.result()
