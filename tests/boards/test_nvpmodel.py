"""Power modes are the board's own, and one that needs a reboot is never entered."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetrt.boards import nvpmodel
from edgetrt.boards.conditions import conditions
from edgetrt.boards.nvpmodel import LEAST_GAP_S, Power, parse
from edgetrt.errors import BoardError, PowerModeError

TABLES = Path(__file__).parents[1] / "data" / "nvpmodel"
SECOND_NS = 1_000_000_000
MASKS = {
    "agx-orin-64gb": "sys/devices/platform/gpu.0/tpc_pg_mask",
    "orin-nano-8gb-super": "sys/devices/platform/bus@0/17000000.gpu/tpc_pg_mask",
}


class Board:
    """A board in a folder, with a stand-in for `nvpmodel` that does what it is asked."""

    def __init__(self, root: Path, table: str, number: int, mask: str | None = None) -> None:
        self.root, self.calls = root, root / "calls"
        (root / "etc" / "nvpmodel").mkdir(parents=True)
        (root / "etc" / "nvpmodel" / "board.conf").write_text(
            (TABLES / f"{table}.conf").read_text()
        )
        (root / nvpmodel.TABLE).symlink_to("nvpmodel/board.conf")
        self.status = root / nvpmodel.STATUS
        self.status.parent.mkdir(parents=True)
        self.status.write_text(f"pmode:{number:04d} fmode:quiet")
        if mask is not None:
            path = root / MASKS[table]
            path.parent.mkdir(parents=True)
            path.write_text(f"{mask}\n")
        self.tool(f'printf "pmode:%04d fmode:quiet" "$2" >{self.status}')

    def tool(self, script: str) -> None:
        path = self.root / nvpmodel.TOOL
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "$@" >>{self.calls}\n{script}\n')
        path.chmod(0o755)

    def power(self) -> Power:
        return Power(self.root, self.root / "run" / "latest")

    def asked(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.mark.parametrize(
    ("table", "modes", "default"),
    [
        ("agx-orin-64gb", {"MAXN": 0, "MODE_15W": 1, "MODE_30W": 2, "MODE_50W": 3}, 2),
        ("orin-nano-8gb-super", {"15W": 0, "25W": 1, "MAXN_SUPER": 2, "7W": 3}, 1),
        ("xavier-nx", {"MODE_15W_6CORE": 2, "MODE_10W_4CORE": 4, "MODE_20W_6CORE": 8}, 8),
    ],
)
def test_a_boards_own_table_says_what_it_can(
    table: str, modes: dict[str, int], default: int
) -> None:
    found = parse((TABLES / f"{table}.conf").read_text())

    assert {mode.name: mode.number for mode in found.modes} == modes
    assert found.default == default
    for mode in found.modes:
        assert len(mode.masks()) == 1
        assert set(mode.masks()) <= set(found.files)


def test_a_mode_is_set_by_its_number_and_looked_at_afterwards(tmp_path: Path) -> None:
    board = Board(tmp_path, "orin-nano-8gb-super", number=0, mask="240")

    assert board.power().set("MAXN_SUPER", 0) is True

    assert board.asked() == ["-m 2"]
    assert board.power().current() == board.power().table.named("MAXN_SUPER")
    assert conditions(tmp_path).power_mode == "MAXN_SUPER"


def test_the_mode_that_is_on_needs_nothing(tmp_path: Path) -> None:
    board = Board(tmp_path, "xavier-nx", number=4)

    assert board.power().set("MODE_10W_4CORE", 0) is False
    assert board.asked() == []


@pytest.mark.parametrize("mask", ["240", "0xf0", None])
def test_other_parts_of_the_gpu_need_a_reboot(tmp_path: Path, mask: str | None) -> None:
    board = Board(tmp_path, "agx-orin-64gb", number=2, mask=mask)
    power = board.power()

    assert {m.name: bool(power.reboot(m)) for m in power.table.modes} == {
        "MAXN": True,
        "MODE_15W": True,
        "MODE_30W": False,
        "MODE_50W": True,
    }
    with pytest.raises(PowerModeError, match="needs a reboot: TPC_PG_MASK is 240, not 0") as raised:
        power.set("MODE_50W", 0)
    assert "nvpmodel -m 3" in raised.value.hint
    assert board.asked() == []


def test_what_the_kernel_says_counts_more_than_the_table(tmp_path: Path) -> None:
    board = Board(tmp_path, "agx-orin-64gb", number=0, mask="248")

    with pytest.raises(PowerModeError, match="TPC_PG_MASK is 248, not 0"):
        board.power().set("MODE_50W", 0)


def test_where_nobody_knows_the_present_mask_nothing_is_set(tmp_path: Path) -> None:
    board = Board(tmp_path, "orin-nano-8gb-super", number=0)
    board.status.unlink()

    with pytest.raises(PowerModeError, match="TPC_PG_MASK is not known"):
        board.power().set("25W", 0)
    assert board.power().current() is None
    assert conditions(tmp_path).power_mode is None


def test_an_unknown_mode_names_the_known_ones(tmp_path: Path) -> None:
    board = Board(tmp_path, "orin-nano-8gb-super", number=0)

    with pytest.raises(PowerModeError, match="'MODE_30W'") as raised:
        board.power().set("MODE_30W", 0)
    assert "15W, 25W, MAXN_SUPER, 7W" in raised.value.hint


def test_changes_keep_their_distance(tmp_path: Path) -> None:
    board = Board(tmp_path, "orin-nano-8gb-super", number=0, mask="240")
    gap_ns = round(LEAST_GAP_S) * SECOND_NS
    start_ns = 5 * SECOND_NS

    board.power().set("25W", start_ns)
    with pytest.raises(PowerModeError, match="the last change was 59 s ago") as raised:
        board.power().set("15W", start_ns + gap_ns - SECOND_NS)
    assert raised.value.hint == "Try again in 1 s."
    assert board.power().set("15W", start_ns + gap_ns) is True
    assert board.asked() == ["-m 1", "-m 0"]


def test_a_failed_change_counts_as_one(tmp_path: Path) -> None:
    board = Board(tmp_path, "orin-nano-8gb-super", number=0, mask="240")
    board.tool("echo 'NVPM ERROR: Error writing 16 to tpc_pg_mask: 16' >&2; exit 1")

    with pytest.raises(PowerModeError, match="ended with 1: NVPM ERROR: Error writing 16"):
        board.power().set("25W", SECOND_NS)
    with pytest.raises(PowerModeError, match="the last change was 1 s ago"):
        board.power().set("25W", 2 * SECOND_NS)


def test_a_tool_that_does_nothing_is_found_out_and_its_question_not_answered(
    tmp_path: Path,
) -> None:
    board = Board(tmp_path, "orin-nano-8gb-super", number=0, mask="240")
    board.tool(
        'echo "REBOOT required: DO YOU WANT TO REBOOT NOW?"; read answer; echo "got $answer"'
    )

    with pytest.raises(PowerModeError, match=r"the board is in number 0, not 1: REBOOT .* got$"):
        board.power().set("25W", 0)


def test_without_nvpmodel_it_says_so(tmp_path: Path) -> None:
    board = Board(tmp_path, "orin-nano-8gb-super", number=0, mask="240")
    (tmp_path / nvpmodel.TOOL).unlink()

    with pytest.raises(BoardError, match="nvpmodel: cannot be run"):
        board.power().set("25W", 0)


def test_who_may_not_write_is_told_to_be_root(tmp_path: Path) -> None:
    board = Board(tmp_path, "orin-nano-8gb-super", number=0, mask="240")
    (tmp_path / "run").write_text("in the way")

    with pytest.raises(BoardError, match="cannot be written") as raised:
        board.power().set("25W", 0)
    assert "sudo edgetrt power set" in raised.value.hint
    assert board.asked() == []


def test_a_machine_without_a_table_has_no_power_modes(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="this machine has no power modes"):
        Power(tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no power mode in it"),
        ("< POWER_MODEL ID=0 NAME=A >\n< POWER_MODEL ID=0 NAME=B >", "two power modes of number 0"),
        ("< POWER_MODEL ID=0 NAME=A >\n< POWER_MODEL ID=1 NAME=A >", "two power modes of name A"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(BoardError, match=complaint):
        parse(text)


@given(st.text(alphabet="<>=# \n\tPOWER_MODELIDNAMEx0123456789-", max_size=400))
def test_no_file_breaks_the_reader(text: str) -> None:
    table = parse("< POWER_MODEL ID=77 NAME=KNOWN >\nA B_PG_MASK zero\n" + text.replace("77", ""))

    assert table.named("KNOWN").masks() == {}
