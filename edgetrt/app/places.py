"""Folders, by what the system and the environment say."""

from __future__ import annotations

import os
from pathlib import Path

AGENT_SOCKET, RUNTIME_SOCKET = "agent.sock", "runtime.sock"


def cache_dir() -> Path:
    """Where this user's caches are: systemd's folder for us, else the user's own."""
    systemd = os.environ.get("CACHE_DIRECTORY")
    if systemd:
        return Path(systemd.split(":")[0])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgetrt"


def state_dir() -> Path:
    """Where this device keeps what must survive: the service's folder, else the user's own."""
    if chosen := os.environ.get("EDGETRT_STATE"):
        return Path(chosen)
    service = Path("/var/lib/edgetrt")
    if os.access(service, os.W_OK):
        return service
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "edgetrt"


def service_state_dir() -> Path:
    """What the services of this device keep, also for people who may only look; else as `state_dir`."""
    service = Path("/var/lib/edgetrt")
    return service if "EDGETRT_STATE" not in os.environ and service.is_dir() else state_dir()


def run_dir() -> Path:
    """Where the local link's sockets are."""
    return Path(os.environ.get("RUNTIME_DIRECTORY", "/run/edgetrt").split(":")[0])
