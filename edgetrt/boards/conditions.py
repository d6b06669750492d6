"""Under which conditions something was measured: power mode, clocks, temperatures."""

from __future__ import annotations

from pathlib import Path

from edgetrt.boards import nvpmodel
from edgetrt.boards.generic import read_text
from edgetrt.errors import BoardError
from edgetrt.types import Conditions

_OFF_C = -200.0
"""Zones of parts without power say -256."""


def conditions(root: Path = Path("/")) -> Conditions:
    """Read what this machine tells; what it does not tell is left out.

    Sources: `/var/lib/nvpmodel/status`, `/etc/nvpmodel.conf`, `/sys/class/devfreq`, `/sys/class/thermal`,
    `/sys/devices/system/cpu`.
    """
    return Conditions(
        power_mode=_power_mode(root),
        clocks_mhz=_clocks_mhz(root),
        temperatures_c=_temperatures_c(root),
    )


def _power_mode(root: Path) -> str | None:
    """Name of the power mode, by the board's own table; its number where the table has none."""
    number = nvpmodel.number(root)
    if number is None:
        return None
    try:
        mode = nvpmodel.Power(root).current()
    except BoardError:
        mode = None
    return mode.name if mode else str(number)


def _clocks_mhz(root: Path) -> dict[str, float]:
    clocks: dict[str, float] = {}
    for device in sorted((root / "sys/class/devfreq").glob("*")):
        hertz = _number(device / "cur_freq")
        if hertz is not None:
            clocks[device.name] = round(hertz / 1e6, 1)
    kilohertz = _number(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if kilohertz is not None:
        clocks["cpu0"] = round(kilohertz / 1e3, 1)
    return clocks


def _temperatures_c(root: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name, milli = (read_text(zone / "type") or "").strip(), _number(zone / "temp")
        if name and milli is not None and milli / 1e3 > _OFF_C:
            found[name] = round(milli / 1e3, 1)
    return found


def _number(path: Path) -> float | None:
    try:
        return float((read_text(path) or "").strip())
    except ValueError:
        return None
