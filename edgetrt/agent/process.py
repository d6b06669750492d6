"""The agent as a process: signals in, exit code out."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgetrt import wire
from edgetrt.agent.agent import Agent
from edgetrt.agent.epoch import next_epoch
from edgetrt.agent.identity import identify
from edgetrt.agent.session import last_will
from edgetrt.agent.spool import Spool
from edgetrt.link import Receiver
from edgetrt.systemd import Notifier, keep_alive
from edgetrt.types import BoardState

if TYPE_CHECKING:
    from edgetrt.agent.updating import Updating
    from edgetrt.agent.verdict import Demand
    from edgetrt.config import DeviceConfig
    from edgetrt.ports import Transport


class Connect(Protocol):
    """Makes the transport; `partial(MqttTransport, config.broker)`."""

    def __call__(
        self,
        client_id: str,
        last_will: Callable[[], tuple[str, bytes]],
        /,
        *,
        subscriptions: tuple[str, ...],
        recalled: tuple[str, ...],
    ) -> Transport:
        """Make it, from who we are to the broker, the last will, and what we subscribe to.

        `recalled` is asked for on every connection anew, for what the broker keeps there.
        """


def run_agent(
    config: DeviceConfig,
    link_path: Path,
    connect: Connect,
    state_folder: Path | None = None,
    demands: Mapping[str, Demand] | None = None,
    board: Callable[[], BoardState] = BoardState,
    updating: Updating | None = None,
    config_path: Path | None = None,
    complaints: tuple[wire.Reason, ...] = (),
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Args:
        config: this device.
        link_path: the socket that runtimes send to; the status file lies beside it.
        connect: makes the transport.
        state_folder: where what waits for the broker survives a restart; None = nowhere.
        demands: what is configured, by pipeline.
        board: asked for power mode and temperatures.
        updating: walks this device's updates; None = it takes none.
        config_path: the file that `config` comes from.
        complaints: what was wrong before the start, for health.

    Raises:
        ConfigError: no usable device name, or a file of `broker` cannot be read.
        TransportError: `link_path` cannot be bound, or another agent serves it.
    """
    folder = None if config.outbox.store == "memory" else state_folder
    with Receiver(link_path) as receiver:
        identity = identify(config, next_epoch(folder, time.time_ns() // 1_000_000))
        transport = connect(
            identity.device,
            lambda: last_will(identity, time.time()),
            subscriptions=wire.everything_to(
                identity.device, chunks=updating is not None and updating.line is not None
            ),
            recalled=(wire.status(identity.device),),
        )
        path = None if folder is None else folder / "outbox" / f"{identity.device}.db"
        agent = Agent(
            identity,
            config,
            transport,
            receiver,
            open_store=None if path is None else partial(Spool, path, config.outbox),
            demands=demands,
            run_folder=link_path.parent,
            state_folder=state_folder,
            board=board,
            updating=updating,
            config_path=config_path,
            complaints=complaints,
        )
        asyncio.run(_serve(agent))
    return 0


async def _serve(agent: Agent) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    systemd = Notifier()
    systemd.ready("serving the runtime")  # the link is bound; the broker may be away for days
    feeding = asyncio.create_task(keep_alive(systemd))
    try:
        await agent.run(stop)
    finally:
        systemd.stopping()
        feeding.cancel()
