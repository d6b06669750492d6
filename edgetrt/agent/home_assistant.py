"""Announces the device to Home Assistant, as an option: one retained message, renewed when it changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgetrt.agent.discovery import Known, components, discovery, known_of, topic
from edgetrt.errors import NotConnectedError, TransportError

if TYPE_CHECKING:
    from edgetrt import wire
    from edgetrt.agent.identity import Identity
    from edgetrt.config import HomeAssistantConfig
    from edgetrt.ports import Transport

_log = logging.getLogger(__name__)

FILE = "home-assistant.json"
_LOOK_S = 5.0
_GRACE_S = 60.0
"""After the start, for pipelines to report themselves before they count as gone."""
_MOST_GONE = 100


class Told(msgspec.Struct, frozen=True):
    """What was last published, kept over restarts: what is to be taken away again must be known.

    Attributes:
        topic: where.
        known: what was there.
        gone: platforms of the parts that were there once, by key, the oldest first.
    """

    topic: str = ""
    known: Known = Known()
    gone: dict[str, str] = {}


class HomeAssistant:
    """Keeps the announcement as the device is, and takes it away when the option is switched off.

    Args:
        config: the option; None = off.
        identity: who.
        transport: over what.
        health: the last that was told.
        configured: names of pipelines.
        state_folder: where is remembered what was published; None = nowhere.
        look_s: how often it is looked at what there is.
        grace_s: after the start, how long nothing is taken away.
    """

    def __init__(
        self,
        config: HomeAssistantConfig | None,
        identity: Identity,
        transport: Transport,
        health: Callable[[], wire.HealthMessage | None],
        configured: Callable[[], Iterable[str]],
        state_folder: Path | None,
        look_s: float = _LOOK_S,
        grace_s: float = _GRACE_S,
    ) -> None:
        self._topic = "" if config is None else topic(config.prefix, identity.device)
        self._identity = identity
        self._transport = transport
        self._health = health
        self._configured = configured
        self._path = None if state_folder is None else state_folder / FILE
        self._look_s = look_s
        self._grace_s = grace_s
        self._told = _load(self._path)
        self._sent: bytes | None = None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to announce, and nothing to take away."""
        return not self._topic and not self._told.topic

    async def run(self) -> None:
        """Publish on each connection and on each change, until cancelled."""
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        connected = asyncio.Event()
        following = loop.create_task(self._follow(connected))
        try:
            while True:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(connected.wait(), self._look_s)
                if connected.is_set():
                    connected.clear()
                    self._sent = None
                if self._transport.state.connected:
                    await self._publish(loop.time() - start_s >= self._grace_s)
        finally:
            following.cancel()

    async def _follow(self, connected: asyncio.Event) -> None:
        async for state in self._transport.states():
            if state.connected:
                connected.set()

    async def _publish(self, settled: bool) -> None:
        """Take away what is at a former place, and tell what there is."""
        if self._told.topic not in ("", self._topic):
            if not await self._retain(self._told.topic, b""):
                return
            self._remember(Told())
        health = self._health()
        # Before the first health nobody knows what the board tells.
        if not self._topic or health is None:
            return
        told = self._next(known_of(health, self._configured()), settled)
        message = discovery(self._identity, told.known, told.gone)
        if message != self._sent and await self._retain(self._topic, message):
            self._sent = message
            self._remember(told)

    def _next(self, present: Known, settled: bool) -> Told:
        """What to tell now, from what there is and what was told."""
        if not settled:
            present = present | self._told.known
        device = self._identity.device
        before = {
            key: part["platform"] for key, part in components(device, self._told.known).items()
        }
        now = components(device, present)
        gone = {key: of for key, of in {**self._told.gone, **before}.items() if key not in now}
        return Told(self._topic, present, dict(list(gone.items())[-_MOST_GONE:]))

    def _remember(self, told: Told) -> None:
        if told == self._told:
            return
        self._told = told
        if self._path is None:
            return
        fresh = self._path.with_suffix(".new")
        try:
            if told.topic:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                fresh.write_bytes(msgspec.json.encode(told))
                fresh.replace(self._path)
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            _log.debug("%s: cannot be written: %s", self._path, error)

    async def _retain(self, where: str, message: bytes) -> bool:
        try:
            await self._transport.publish(where, message, retain=True)
        except NotConnectedError:
            return False
        except TransportError as error:
            # Not again before the next connection: the broker's access list has no line for it.
            _log.warning("%s", error.message)
        return True


def _load(path: Path | None) -> Told:
    """What was told before; nothing where that cannot be read."""
    try:
        return Told() if path is None else msgspec.json.decode(path.read_bytes(), type=Told)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return Told()
