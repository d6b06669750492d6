"""The updates of this device, put together from its settings; what runs engines comes from elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgetrt.config import OVER_MQTT, UpdateConfig
from edgetrt.document import beside
from edgetrt.errors import ConfigError
from edgetrt.update.chunks import ChunkOrigin
from edgetrt.update.fetch import Progress
from edgetrt.update.layout import Layout
from edgetrt.update.line import Line
from edgetrt.update.machine import Machine, Ports
from edgetrt.update.origin import Origin
from edgetrt.update.ports import Trusting
from edgetrt.update.record import FileStore, Record
from edgetrt.update.release import Host
from edgetrt.update.requests import Requests
from edgetrt.update.states import State
from edgetrt.update.steps import Sources, Step, Verifying
from edgetrt.update.web import WebOrigin


@dataclass(frozen=True)
class Local:
    """What every user of this device's updates needs.

    Attributes:
        device: its name.
        layout: where releases lie.
        store: where the state of updates is kept.
        requests: what people ask for.
        verifying: the steps that touch nothing that serves.
    """

    device: str
    layout: Layout
    store: FileStore
    requests: Requests
    verifying: Verifying

    def machine(
        self,
        more: Mapping[State, Step] | None = None,
        tell: Callable[[Record], None] = lambda _: None,
    ) -> Machine:
        """The machine; without `more` it goes as far as STAGE."""
        ports = Ports(self.device, self.verifying.known_signer, time.time, tell)
        steps = {**self.verifying.steps(), **(more or {})}
        return Machine(self.store, steps, self.requests, ports)


def assemble(
    device: str,
    host: Host,
    config: UpdateConfig,
    path: Path,
    folder: Path,
    progress: Progress = lambda *_: None,
    line: Line | None = None,
    trusting: Callable[[Path, bytes, bool], Trusting] | None = None,
) -> Local:
    """Put them together.

    Args:
        device: name of this device.
        host: what it is.
        config: its settings.
        path: the file they come from; paths in them are relative to it.
        folder: of updates.
        progress: is told of downloads.
        line: to whoever serves the repository over the broker; only the agent has one.
        trusting: makes what knows whose word counts, from its folder, the first root metadata, and
            whether a person vouches for the clock; None = in this process.

    Raises:
        ConfigError: the first root metadata is missing, or an address is none.
    """
    layout = Layout(folder)
    root = _root(beside(path, config.root))
    trust = (trusting or _here)(layout.trust, root, config.trust_clock)
    sources = _sources(config, path, line or Line())
    verifying = Verifying(device, host, layout, trust, sources, progress)
    return Local(device, layout, FileStore(folder), Requests(folder), verifying)


def is_over_mqtt(config: UpdateConfig) -> bool:
    """Whether any of it comes through the broker."""
    return OVER_MQTT in (config.repository, *config.mirrors)


def _here(folder: Path, root: bytes, trust_clock: bool) -> Trusting:
    from edgetrt.update.clock import SystemWallClock
    from edgetrt.update.trust import Trust

    return Trust(folder, root, SystemWallClock(trust_clock))


def _root(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: the first root metadata cannot be read: {error.strerror}",
            "Copy the repository's public/metadata/1.root.json there: the device trusts what it says.",
        ) from error


def _sources(config: UpdateConfig, path: Path, line: Line) -> Sources | None:
    if config.repository is None:
        return None
    ca_file = None if config.ca_file is None else beside(path, config.ca_file)

    def origin(base: str, folder: str) -> Origin:
        if base == OVER_MQTT:
            return ChunkOrigin(line, folder, chunk_bytes=config.chunk_kb * 1024)
        url = f"{base.rstrip('/')}/{folder}"
        return WebOrigin(url, allow_http=config.allow_http, ca_file=ca_file)

    bases = (config.repository, *config.mirrors)
    return Sources(
        origin(config.repository, "metadata"), tuple(origin(base, "targets") for base in bases)
    )
