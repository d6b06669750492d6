from __future__ import annotations

from pathlib import Path

import pytest

from edgetrt.boards import generic, jetson

BOARDS = Path(__file__).parents[1] / "data" / "boards"


@pytest.mark.parametrize(
    ("board", "part", "soc", "capability", "l4t", "memory_gb"),
    [
        ("agx-xavier", "p2888-0004", "tegra194", "7.2", "35.4.1", 30),
        ("xavier-nx", "p3668-0001", "tegra194", "7.2", "35.6.1", 7),
        ("orin-nano-8gb", "p3767-0005", "tegra234", "8.7", "36.4.3", 7),
        ("orin-nx-16gb", "p3767-0000", "tegra234", "8.7", "36.4.0", 15),
        ("agx-orin-64gb", "p3701-0005", "tegra234", "8.7", None, 61),
        ("thor-t5000", "p3834-0008", "tegra264", "11.0", "38.2.0", 122),
    ],
)
def test_modules(
    board: str, part: str, soc: str, capability: str, l4t: str | None, memory_gb: int
) -> None:
    found = jetson.identify(BOARDS / board)
    assert found is not None
    assert found.jetson
    assert (found.part_number, found.soc, found.l4t) == (part, soc, l4t)
    assert found.compute_capability == capability
    assert (found.memory_bytes or 0) >> 30 == memory_gb
    assert "NVIDIA Jetson" in found.model


def test_a_computer_is_no_jetson(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16777216 kB\n")
    assert jetson.identify(tmp_path) is None
    found = generic.identify(tmp_path)
    assert not found.jetson
    assert found.memory_bytes == 16 << 30
    assert found.part_number is None
    assert found.model.startswith("Linux ")


def test_a_name_from_the_firmware(tmp_path: Path) -> None:
    (tmp_path / "sys/class/dmi/id").mkdir(parents=True)
    (tmp_path / "sys/class/dmi/id/product_name").write_text("ThinkStation P3\n")
    assert generic.identify(tmp_path).model == "ThinkStation P3"
    assert generic.identify(tmp_path).memory_bytes is None


def test_another_arm_board_is_no_jetson(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/compatible").write_bytes(b"raspberrypi,5\0brcm,bcm2712\0")
    assert jetson.identify(tmp_path) is None


def test_an_unknown_module_of_a_known_chip(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/compatible").write_bytes(b"acme,box\0nvidia,tegra234\0")
    found = jetson.identify(tmp_path)
    assert found is not None
    assert (found.part_number, found.compute_capability) == (None, "8.7")
    assert found.model == "Jetson (tegra234)"
