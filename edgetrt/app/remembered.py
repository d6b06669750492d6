"""The last config that was good: a file that is half written must not cost a device its agent."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from edgetrt import document
from edgetrt.app.places import state_dir
from edgetrt.config import DeviceConfig
from edgetrt.errors import ConfigError
from edgetrt.update import durable

_log = logging.getLogger(__name__)


def device_config(path: Path) -> tuple[DeviceConfig, str]:
    """Read agent.yaml; when it cannot be used, the last version of it that could.

    Returns:
        The config, and what is wrong with the file of now; empty when nothing is.

    Raises:
        ConfigError: it cannot be used, and never could so far.
    """
    # By its place: another file never stands in for the one that was named.
    name = hashlib.sha256(bytes(path.resolve())).hexdigest()[:12]
    kept = state_dir() / "last-good" / f"{name}.yaml"
    try:
        config = document.load(path, DeviceConfig)
    except ConfigError as error:
        try:
            before = document.load(kept, DeviceConfig)
        except ConfigError:
            raise error from None
        told = f"{error.message}; the last good version is used instead"
        _log.error("%s: %s", told, kept)
        return before, told
    _keep(path, kept)
    return config, ""


def _keep(path: Path, kept: Path) -> None:
    """Remember a file that was read; a disk that does not take it stops nothing."""
    try:
        data = path.read_bytes()
        if kept.exists() and kept.read_bytes() == data:
            return
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_name(f".new-{kept.name}")
        durable.replace(fresh, data)
        # Somebody may have written to it since it was read.
        document.load(fresh, DeviceConfig)
        fresh.replace(kept)
    except (OSError, ConfigError) as error:
        _log.debug("%s: cannot be kept: %s", kept, error)
