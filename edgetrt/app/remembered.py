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
        config = written(path)
        _look_for_a_cut(path, kept)
    except ConfigError as error:
        try:
            before = document.load(kept, DeviceConfig)
        except ConfigError:
            raise error from None
        told = f"{path} is NOT used, the last good version of it is: {error.in_line}"
        _log.error("%s (%s)", told, kept)
        return before, told
    _keep(path, kept)
    return config, ""


def written(path: Path) -> DeviceConfig:
    """Read an agent.yaml that says something.

    Raises:
        ConfigError: it cannot be used, or it is empty: a power cut leaves such a file.
    """
    parsed = document.parse(path)
    if not parsed.data:
        raise ConfigError(
            f"{path}:1: empty, or nothing but comments",
            "Write it again; a device with every default says `device: NAME`.",
        )
    return document.convert(parsed, DeviceConfig)


def _look_for_a_cut(path: Path, kept: Path) -> None:
    """Refuse the first part of the file that was kept, when it ends in the middle of a line.

    It may well be a file on its own: `port: 18830` becomes `port: 188`.
    """
    try:
        now, before = path.read_bytes(), kept.read_bytes()
    except OSError:
        return
    if (
        len(now) < len(before)
        and before.startswith(now)
        and b"\n" not in now[-1:] + before[len(now) :][:1]
    ):
        line = now.count(b"\n") + 1
        raise ConfigError(
            f"{path}:{line}: ends in the middle of a line that went on before",
            "When it is meant so, end the line with a newline.",
        )


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
        written(fresh)
        fresh.replace(kept)
    except (OSError, ConfigError) as error:
        _log.debug("%s: cannot be kept: %s", kept, error)
