"""What commands share that hand bundles to this device's agent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from edgetrt.config import DeviceConfig
    from edgetrt.update.handover import Handover


class Opened(NamedTuple):
    """The way to the machine, the device's settings and name, the folder of updates."""

    handover: Handover
    settings: DeviceConfig
    device: str
    folder: Path


def open_handover(config: Path, folder: Path | None, taken_s: float) -> Opened:
    """Find this device's folder of updates.

    Args:
        config: agent.yaml.
        folder: of updates; None = this device's.
        taken_s: how long the agent may take to see a wish.

    Raises:
        ConfigError: agent.yaml is missing or wrong, or trusts no repository.
    """
    from edgetrt import document
    from edgetrt.agent.identity import identify
    from edgetrt.app.places import state_dir
    from edgetrt.config import DeviceConfig
    from edgetrt.errors import ConfigError
    from edgetrt.update import durable
    from edgetrt.update.handover import Handover

    settings = document.load(config, DeviceConfig)
    if settings.update is None:
        raise ConfigError(
            f"{config}: no `update` section: this device trusts no repository",
            "Set update.root to the repository's first root metadata.",
        )
    device = identify(settings, 0).device
    where = folder or state_dir() / "update"
    durable.own_folder(where)
    return Opened(Handover(where, device, taken_s), settings, device, where)
