"""Drop-ins follow what a board has and what its sources need, and touch nothing of anybody else's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edgetrt.dropins import devices, network, write
from edgetrt.errors import ConfigError

PROC_DEVICES = """\
Character devices:
  1 mem
 10 misc
 81 video4linux
195 nvidia-frontend
226 drm
503 nvhost-ctrl-gpu
504 nvhost

Block devices:
226 blkext
"""
NODES = {
    "nvmap": (10, 57),
    "nvhost-ctrl-gpu": (503, 0),
    "nvhost-nvdla0": (504, 1),
    "nvhost-vic": (504, 2),
    "nvgpu/igpu0/ctrl": (502, 1),
    "dri/renderD128": (226, 128),
    "video0": (81, 0),
    "sda": (8, 0),
}


class Board:
    """A folder with a board's `/dev`, whose nodes are files of which a stand-in of stat knows the numbers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc").mkdir()
        (root / "proc/devices").write_text(PROC_DEVICES)
        for name in NODES:
            path = root / "dev" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def status(self, path: Path) -> os.stat_result:
        number = os.makedev(*NODES[str(path.relative_to(self.root / "dev"))])
        return os.stat_result((stat.S_IFCHR | 0o660, *[0] * 9), {"st_rdev": number})

    def write(self, *sources: str) -> dict[str, str]:
        """What was done, by path below the units' folder."""
        done = write(sources, self.root, self.status)
        folder = self.root / "etc/systemd/system"
        return {str(change.path.relative_to(folder)): change.done for change in done}

    def read(self, name: str) -> list[str]:
        return (self.root / "etc/systemd/system" / name).read_text().splitlines()


RUNTIME, BUILD = "edgetrt-runtime.service.d", "edgetrt-build@.service.d"


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def test_devices_are_named_by_their_driver_where_it_has_no_others(board: Board) -> None:
    assert devices(board.root, board.status) == [
        "DeviceAllow=/dev/nvgpu/igpu0/ctrl rw",  # a driver without a name
        "DeviceAllow=/dev/nvmap rw",  # one of many that are `misc`
        "DeviceAllow=char-drm rw",
        "DeviceAllow=char-nvhost rw",
        "DeviceAllow=char-nvhost-ctrl-gpu rw",
        "DeviceAllow=char-video4linux rw",
    ]


def test_a_machine_without_such_nodes_needs_no_line(tmp_path: Path) -> None:
    assert devices(tmp_path) == []


@pytest.mark.parametrize("source", ["synthetic:64x64", "file:a.mp4", "dir:rtsp://x", "rtsp.mp4"])
def test_the_network_stays_shut_without_need(source: str) -> None:
    assert network([source]) == []


def test_a_camera_s_address_is_opened_and_nothing_else() -> None:
    lines = network(["rtsp://user:secret@192.168.1.20:554/stream", "rtsps://[fd00::5]/", "a.mp4"])

    assert lines == [
        "PrivateNetwork=no",
        "RestrictAddressFamilies=AF_INET AF_INET6",
        "IPAddressAllow=192.168.1.20",
        "IPAddressAllow=fd00::5",
    ]
    assert "secret" not in "".join(lines)


def test_a_name_opens_the_site_and_not_the_internet() -> None:
    lines = network(["RTSP://camera.local/stream"])

    assert "IPAddressAllow=192.168.0.0/16" in lines
    assert not {"IPAddressAllow=any", "IPAddressAllow=0.0.0.0/0"} & set(lines)


def test_drop_ins_are_written_once_and_follow_the_sources(board: Board) -> None:
    runtime, build, net = (
        f"{RUNTIME}/devices.conf",
        f"{BUILD}/devices.conf",
        f"{RUNTIME}/network.conf",
    )

    assert board.write() == {runtime: "written", build: "written", net: "kept"}
    assert board.write() == {runtime: "kept", build: "kept", net: "kept"}
    assert board.read(runtime)[1] == "[Service]"
    assert board.read(runtime) == board.read(build)
    assert board.write("rtsp://10.0.0.9/s")[net] == "written"
    assert "IPAddressAllow=10.0.0.9" in board.read(net)
    assert board.write("rtsp://10.0.0.9/s")[net] == "kept"
    assert board.write("a.mp4")[net] == "removed"


def test_a_file_of_somebody_else_is_left_alone(board: Board) -> None:
    path = board.root / f"etc/systemd/system/{RUNTIME}/network.conf"
    path.parent.mkdir(parents=True)
    path.write_text("[Service]\nPrivateNetwork=no\n")

    assert board.write()[f"{RUNTIME}/network.conf"] == "kept"
    assert board.write("rtsp://camera/s")[f"{RUNTIME}/network.conf"] == "kept"
    assert path.read_text() == "[Service]\nPrivateNetwork=no\n"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("in the way")

    with pytest.raises(ConfigError, match="cannot be written") as raised:
        write(["rtsp://camera/s"], tmp_path)
    assert "sudo" in raised.value.hint
