"""Everything that can be asked of this device from afar, put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgetrt import wire
from edgetrt.agent import programs
from edgetrt.agent.answering import Answering
from edgetrt.agent.audit import Audit
from edgetrt.agent.commands import TABLE, Command, Means
from edgetrt.agent.control import Control, Settings
from edgetrt.agent.inbound import Handler, Inbound
from edgetrt.agent.peer import Peer, Recent
from edgetrt.errors import TransportError

if TYPE_CHECKING:
    from edgetrt.agent.entry import Moment
    from edgetrt.agent.identity import Identity
    from edgetrt.agent.publisher import Publisher
    from edgetrt.config import DeviceConfig
    from edgetrt.ports import Message, Transport

_log = logging.getLogger(__name__)

RUNTIME_SOCKET = "runtime.sock"

_COMPARE_S = 1.0
"""How often what is in force is compared with what is wanted."""

_STALE_S = 5.0
"""A pipeline that has been silent for so long is not told anything."""


class Remote:
    """Inbound messages, commands and settings of one agent.

    Args:
        identity: who.
        config: what is allowed.
        transport: where messages come from and replies go.
        publisher: where events go.
        now: by both clocks.
        reports: what the pipelines said last, with their ages.
        health: the last that was told.
        changed: called when what is reported has changed.
        config_path: the device's config file.
        run_folder: where the runtime's socket is; None = there is none.
        state_folder: what survives; None = nothing does.
        status: looks at our own status as the broker kept it.
        chunk: takes parts of a release; None = they do not come through the broker.
        desired: takes a signed `desired`; None = this device takes none.
        updating: whether an update is on its way.
        table: every command.

    Attributes:
        control: the settings.
    """

    def __init__(
        self,
        identity: Identity,
        config: DeviceConfig,
        transport: Transport,
        publisher: Publisher,
        now: Callable[[], Moment],
        reports: Callable[[], tuple[wire.PipelineReport, ...]],
        health: Callable[[], wire.HealthMessage | None],
        changed: Callable[[], None],
        *,
        config_path: Path | None = None,
        run_folder: Path | None = None,
        state_folder: Path | None = None,
        status: Handler = lambda _: None,
        chunk: Handler | None = None,
        desired: Callable[[bytes], None] | None = None,
        updating: Callable[[], bool] = lambda: False,
        table: Mapping[str, Command] = TABLE,
    ) -> None:
        self._reports = reports
        self._peer = None if run_folder is None else Peer(run_folder / RUNTIME_SOCKET)
        self._recent = Recent()
        plain = config.control.unsigned_settings and config.update is None
        self.control = Control(state_folder, self._tell, changed, plain)
        means = Means(
            identity=identity,
            config=config,
            config_path=config_path,
            run_folder=run_folder,
            state_folder=state_folder,
            now=now,
            started_ns=now().mono_ns,
            health=health,
            lines=self._recent.lines,
            run=programs.run,
            ask=self._ask,
            updating=updating,
        )
        audit = Audit(None if state_folder is None else state_folder / "audit")
        self._answering = Answering(means, transport, publisher, audit, table)
        handlers: dict[str, Handler] = {
            "cmd": self._answering.take,
            "announce": _announced,
            "status": status,
        }
        if chunk is not None:
            handlers["chunk"] = chunk
        if desired is not None:
            handlers["desired"] = lambda message: desired(message.payload)
        elif plain:
            handlers["desired"] = self._take_plain
        self._inbound = Inbound(identity.device, transport, handlers)

    @property
    def commands(self) -> int:
        """Commands that were answered."""
        return self._answering.answered

    @property
    def refused(self) -> int:
        """Messages that were refused without an answer."""
        return self._inbound.refused

    async def run(self) -> None:
        """Take what comes until cancelled."""
        logging.getLogger().addHandler(self._recent)
        comparing = asyncio.create_task(self._compare())
        try:
            await self._inbound.run()
        finally:
            comparing.cancel()
            logging.getLogger().removeHandler(self._recent)
            await self._answering.close()
            if self._peer is not None:
                self._peer.close()

    def settle(self, generation: int, settings: Settings) -> None:
        """Want these settings from now on; their signature was verified."""
        self.control.settle(generation, settings)
        self._look()

    def reasons(self) -> tuple[wire.Reason, ...]:
        """Settings that are not in force, for the verdict."""
        return self.control.reasons(self._reports())

    def unsettled(self) -> dict[str, str]:
        """The same by pipeline, those on their way included, for `reported`."""
        return self.control.unsettled(self._reports())

    async def _compare(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(_COMPARE_S)

    def _look(self) -> None:
        for report in self._reports():
            if report.age_s < _STALE_S:
                self.control.look(report)

    def _take_plain(self, message: Message) -> None:
        self.control.take(message)
        self._look()

    def _tell(self, message: wire.Struct) -> bool:
        return self._peer is not None and self._peer.tell(message)

    async def _ask(
        self, question: Callable[[str], wire.AskMessage], timeout_s: float
    ) -> wire.AnswerMessage:
        if self._peer is None:
            raise TransportError("this agent serves no runtime")
        return await self._peer.ask(question, timeout_s)


def _announced(message: Message) -> None:
    """Note it; who looks for new releases by itself does so on a period as well."""
    _log.info("announced: %s", wire.decode(wire.AnnounceMessage, message.payload).about)
