"""What a board tells about itself, from fixture trees of what kernels write."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetrt.boards.conditions import conditions
from edgetrt.boards.sensors import Sensors
from edgetrt.types import BoardState


class Tree:
    """A folder that looks like a board's `/sys`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def zone(self, number: int, name: str, milli: str, *trips: tuple[str, str]) -> Path:
        folder = self.root / f"sys/class/thermal/thermal_zone{number}"
        folder.mkdir(parents=True)
        (folder / "type").write_text(f"{name}\n")
        (folder / "temp").write_text(f"{milli}\n")
        for index, (kind, at) in enumerate(trips):
            (folder / f"trip_point_{index}_type").write_text(f"{kind}\n")
            (folder / f"trip_point_{index}_temp").write_text(f"{at}\n")
        return folder / "temp"

    def overcurrent(self, *counts: int) -> None:
        folder = self.root / "sys/class/hwmon/hwmon1"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text("soctherm_oc\n")
        for number, count in enumerate(counts, 1):
            (folder / f"oc{number}_event_cnt").write_text(f"{count}\n")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


ORIN = (("active", "35000"), ("passive", "99000"), ("critical", "104500"))


def test_a_jetson_tells_heat_and_how_far_it_is_from_slowing_down(tree: Tree) -> None:
    tree.zone(0, "cpu-thermal", "61234", *ORIN)
    tree.zone(1, "gpu-thermal", "55000", ("passive", "99000"), ("passive", "58000"))
    tree.zone(2, "cv0-thermal", "-256000", *ORIN)
    tree.zone(3, "tboard-thermal", "48500", ("critical", "107000"))

    found = Sensors(tree.root).read()

    assert found.temperatures_c == {
        "cpu-thermal": 61.2,
        "gpu-thermal": 55.0,
        "tboard-thermal": 48.5,
    }
    # The nearest to its limit is not the hottest.
    assert found.headroom_c == 3.0
    assert conditions(tree.root).temperatures_c == found.temperatures_c


def test_a_count_of_overcurrents_is_the_sum(tree: Tree) -> None:
    tree.overcurrent(0, 3, 4)
    other = tree.root / "sys/class/hwmon/hwmon2"
    other.mkdir()
    (other / "name").write_text("ina3221\n")
    (other / "oc1_event_cnt").write_text("99\n")
    sensors = Sensors(tree.root)

    assert sensors.read().overcurrents == 7
    tree.overcurrent(1, 3, 5)
    assert sensors.read().overcurrents == 9


def test_what_a_machine_does_not_tell_is_not_there(tree: Tree) -> None:
    assert Sensors(tree.root).read() == BoardState()


@pytest.mark.parametrize("temp", ["", "hot", "-256000"])
def test_a_sensor_that_says_nothing_is_not_zero(tree: Tree, temp: str) -> None:
    path = tree.zone(0, "gpu-thermal", temp, *ORIN)
    tree.overcurrent()
    sensors = Sensors(tree.root)

    assert sensors.read() == BoardState()
    path.unlink()
    assert sensors.read() == BoardState()


def test_trip_points_that_are_none_count_as_none(tree: Tree) -> None:
    tree.zone(0, "x86_pkg_temp", "45000", ("passive", "0"), ("passive", "-274000"))

    found = Sensors(tree.root).read()

    assert (found.temperatures_c, found.headroom_c) == ({"x86_pkg_temp": 45.0}, None)


def test_a_mode_that_the_table_does_not_have_is_its_number(tree: Tree) -> None:
    status = tree.root / "var/lib/nvpmodel/status"
    status.parent.mkdir(parents=True)
    status.write_text("pmode:0007 fmode:quiet")

    assert Sensors(tree.root).read().power_mode == "7"
