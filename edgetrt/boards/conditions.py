"""Under which conditions something was measured: power mode, clocks, temperatures."""

from __future__ import annotations

from pathlib import Path

from edgetrt.boards.generic import read_number
from edgetrt.boards.sensors import Sensors
from edgetrt.types import Conditions


def conditions(root: Path = Path("/")) -> Conditions:
    """Read what this machine tells; what it does not tell is left out.

    Sources: those of `Sensors`, `/sys/class/devfreq` and `/sys/devices/system/cpu`.
    """
    now = Sensors(root).read()
    return Conditions(
        power_mode=now.power_mode,
        clocks_mhz=_clocks_mhz(root),
        temperatures_c=now.temperatures_c,
    )


def _clocks_mhz(root: Path) -> dict[str, float]:
    clocks: dict[str, float] = {}
    for device in sorted((root / "sys/class/devfreq").glob("*")):
        hertz = read_number(device / "cur_freq")
        if hertz is not None:
            clocks[device.name] = round(hertz / 1e6, 1)
    kilohertz = read_number(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if kilohertz is not None:
        clocks["cpu0"] = round(kilohertz / 1e3, 1)
    return clocks
