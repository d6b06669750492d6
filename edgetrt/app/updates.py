"""The updates of this device, put together: trust and steps from their folder, engines from processes."""

from __future__ import annotations

import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgetrt.app.places import RUNTIME_SOCKET
from edgetrt.app.serving import updates_dir
from edgetrt.asking import Answer, look_again
from edgetrt.children import Children, how_it_ended
from edgetrt.errors import ConfigError, EdgetrtError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgetrt.agent.engines import Workers
    from edgetrt.agent.updating import Updating
    from edgetrt.agent.verdict import Demand
    from edgetrt.config import DeviceConfig
    from edgetrt.types import BoardState
    from edgetrt.update.release import Host


def open_updating(
    device: DeviceConfig,
    path: Path,
    name: str,
    sockets: Path,
    board: Callable[[], BoardState],
    demands: Callable[[], Mapping[str, Demand]],
) -> Updating | None:
    """Put them together; None when this device takes no releases.

    Args:
        device: its settings.
        path: the file they come from.
        name: of this device.
        sockets: where the runtime's is.
        board: asked for heat and power.
        demands: reads what is to run now.

    Raises:
        ConfigError: the first root metadata is missing, an address is none, or the extra is not installed.
    """
    if device.update is None:
        return None
    for needed in ("tuf", "securesystemslib", "cryptography"):
        if find_spec(needed) is None:
            raise ConfigError(f"{path}: update: needs {needed}", "pip install 'edgetrt[update]'")
    from edgetrt.agent.engines import UnitEngines
    from edgetrt.agent.proving import BoardHeadroom, WatchProver
    from edgetrt.agent.trust_process import TrustProcess
    from edgetrt.agent.updating import Updating
    from edgetrt.agent.watch import Watch
    from edgetrt.update.conditions import SwitchConditions
    from edgetrt.update.line import Line
    from edgetrt.update.local import assemble, is_over_mqtt
    from edgetrt.update.steps import Switching

    root, stop, watch = updates_dir(), threading.Event(), Watch()

    def progress(*_: int) -> None:
        updating.progress()

    def rates_hz() -> dict[str, float | None]:
        return {of: demand.rate_hz for of, demand in updating.demands.items()}

    line = Line() if is_over_mqtt(device.update) else None
    local = assemble(name, host(), device.update, path, root, progress, line, TrustProcess)

    def look(shadow: int) -> Answer:
        return look_again(sockets / RUNTIME_SOCKET, shadow=shadow)

    engines = UnitEngines(root, workers(), look, stop.is_set)
    prover = WatchProver(watch, rates_hz, board)
    switching = Switching(
        local.layout, engines, SwitchConditions(root, BoardHeadroom(board)), prover
    )
    updating = Updating(local, switching, engines, watch, stop, demands, line)
    return updating


def workers() -> Workers:
    """Whoever runs builds here: systemd where somebody takes requests for it, else child processes."""
    from edgetrt.units import SystemUnits

    units = SystemUnits()
    return units if units.served else ChildWorkers()


class ChildWorkers:
    """Builds as child processes of this one, at low priority. What runs the runtime is not known here."""

    def __init__(self) -> None:
        self._made: dict[str, Children] = {}

    def start(self, unit: str) -> None:
        """Start a build; no effect when it runs."""
        kind, _, digest = unit.partition("@")
        if kind != "build":
            raise EdgetrtError(f"unit {unit!r}: nothing here starts it")
        children = Children({unit: ["update", "build", digest]}, nice=10)
        children.start(unit)
        self._made = {unit: children}

    def restart(self, unit: str) -> None:
        """Refuse: whoever started the runtime restarts it.

        Raises:
            EdgetrtError: always.
        """
        from edgetrt.agent.engines import START_IT

        raise EdgetrtError(f"the agent cannot start the {unit} on this machine", START_IT)

    def stop(self, unit: str) -> object:
        """End a build; no effect when it does not run."""
        made = self._made.get(unit)
        return None if made is None else made.stop(unit)

    def state(self, unit: str) -> str:
        """As `Units.state`."""
        made = self._made.get(unit)
        return "inactive" if made is None else made.state(unit)

    def reason(self, unit: str) -> str:
        """How it ended, when it failed."""
        made = self._made.get(unit)
        status = None if made is None else made.status(unit)
        return how_it_ended(status) if status else ""


def host() -> Host:
    """What this device is; a release for any device needs none of it."""
    import contextlib
    from importlib.metadata import PackageNotFoundError, version

    from edgetrt.boards import generic, jetson
    from edgetrt.model.targets import target_of
    from edgetrt.update.release import Host

    found = jetson.identify()
    memory = generic.memory_bytes(Path("/"))
    tensorrt = None
    with contextlib.suppress(PackageNotFoundError):
        tensorrt = version("tensorrt")
    return Host(
        board=target_of(found.part_number) if found else None,
        l4t=found.l4t if found else None,
        tensorrt=tensorrt,
        memory_mb=memory / 1e6 if memory else None,
    )
