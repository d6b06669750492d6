"""What this machine is, whichever kind it is."""

from __future__ import annotations

from edgetrt.boards import generic, jetson
from edgetrt.types import DeviceIdentity


def device() -> DeviceIdentity:
    """Identify it: a Jetson by its module, anything else by its processor."""
    return jetson.identify() or generic.identify()
