"""What a board tells about itself while it works: power mode, temperatures, and whether it holds back.

Sources: the kernel's thermal zones with their trip points, and the hwmon device `soctherm_oc`, which counts
how often a Jetson slowed its processors down because they drew too much current
(https://github.com/NVIDIA/skills, jetson-diagnostic). What cannot be read is left out, never 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgetrt.boards import nvpmodel
from edgetrt.boards.generic import read_number, read_text
from edgetrt.errors import BoardError
from edgetrt.types import BoardState

_OFF_C = -200.0
"""Zones of parts without power say -256."""

_SANE_C = (30.0, 150.0)
"""Trip points outside are no such: kernels write 0 or -274 where there is none."""


@dataclass(frozen=True, slots=True)
class Zone:
    """A thermal zone; at `slows_c` the kernel begins to slow down what heats it, None = it does not say."""

    name: str
    path: Path
    slows_c: float | None = None

    def read_c(self) -> float | None:
        """Its temperature; None when its part has no power or does not answer."""
        milli = read_number(self.path)
        return None if milli is None or milli / 1e3 <= _OFF_C else round(milli / 1e3, 1)


class Sensors:
    """The sensors of this board.

    Args:
        root: where `/sys`, `/etc` and `/var` are looked for. What there is, is found once.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._zones = tuple(_zones(root))
        self._counters = tuple(
            path
            for name in sorted((root / "sys/class/hwmon").glob("hwmon*/name"))
            if (read_text(name) or "").strip() == "soctherm_oc"
            for path in sorted(name.parent.glob("oc*_event_cnt"))
        )
        self._modes = _names(root)

    def read(self) -> BoardState:
        """Look at all of them now."""
        read = [(zone, zone.read_c()) for zone in self._zones]
        margins = [
            zone.slows_c - told_c
            for zone, told_c in read
            if zone.slows_c is not None and told_c is not None
        ]
        counts = [count for path in self._counters if (count := read_number(path)) is not None]
        return BoardState(
            power_mode=self.power_mode(),
            temperatures_c={zone.name: told_c for zone, told_c in read if told_c is not None},
            headroom_c=round(min(margins), 1) if margins else None,
            overcurrents=round(sum(counts)) if counts else None,
        )

    def power_mode(self) -> str | None:
        """Name of the power mode, by the board's own table; its number where the table has none."""
        number = nvpmodel.number(self._root)
        return None if number is None else self._modes.get(number, str(number))


def _names(root: Path) -> dict[int, str]:
    try:
        return {mode.number: mode.name for mode in nvpmodel.Power(root).table.modes}
    except BoardError:
        return {}


def _zones(root: Path) -> Iterator[Zone]:
    for folder in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name = (read_text(folder / "type") or "").strip()
        if name:
            yield Zone(name, folder / "temp", min(_passive_c(folder), default=None))


def _passive_c(folder: Path) -> Iterator[float]:
    """Trip points at which the kernel slows something down; fans have others."""
    for kind in folder.glob("trip_point_*_type"):
        if (read_text(kind) or "").strip() == "passive":
            milli = read_number(kind.with_name(kind.name.replace("_type", "_temp")))
            if milli is not None and _SANE_C[0] <= milli / 1e3 <= _SANE_C[1]:
                yield milli / 1e3
