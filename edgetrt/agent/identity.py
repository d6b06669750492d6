"""Who this agent is: device, start, version, boot."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgetrt import __version__
from edgetrt.errors import ConfigError

if TYPE_CHECKING:
    from edgetrt.config import DeviceConfig


@dataclass(frozen=True, slots=True)
class Identity:
    """What every message of one run of the agent carries.

    Attributes:
        device: name of the device.
        epoch: of this start; see `edgetrt.agent.epoch`.
        version: of edgetrt.
        boot: the kernel's id of this boot; empty where it does not tell.
    """

    device: str
    epoch: int
    version: str = __version__
    boot: str = ""


def identify(config: DeviceConfig, epoch: int, hostname: str | None = None) -> Identity:
    """The identity of an agent that starts now.

    Raises:
        ConfigError: no name is configured, and the host's name has no usable character.
    """
    return Identity(
        device=config.device or _device_of(socket.gethostname() if hostname is None else hostname),
        epoch=epoch,
        boot=boot_id(),
    )


def boot_id(proc: Path = Path("/proc")) -> str:
    """The kernel's id of this boot, which tells one monotonic clock from another."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _device_of(hostname: str) -> str:
    """`Jetson_Orin.local` -> `jetson-orin`."""
    name = re.sub(r"[^a-z0-9]+", "-", hostname.split(".")[0].lower()).strip("-")[:63]
    if not name:
        raise ConfigError(
            f"device: not set, and the host name {hostname!r} makes no name",
            "Set `device` in agent.yaml: lower-case letters, digits and '-'.",
        )
    return name
