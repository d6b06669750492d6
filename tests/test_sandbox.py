from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from edgetrt.sandbox import MEND, Look, judge, look, properties, reach


def board(root: Path) -> Path:
    for name in ("dev/nvmap", "dev/nvhost-ctrl", "dev/dri/renderD128", "dev/nvgpu/igpu0/ctrl"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "dev/nvidia-caps").mkdir()
    (root / "var/lib/edgetrt").mkdir(parents=True)
    return root


def test_every_node_that_is_there_is_opened_and_no_other(tmp_path: Path) -> None:
    assert look(board(tmp_path)) == [
        Look("/dev/nvmap", 0),
        Look("/dev/nvhost-ctrl", 0),
        Look("/dev/nvgpu/igpu0/ctrl", 0),
        Look("/dev/dri/renderD128", 0),
        Look("/var/lib/edgetrt", 0),
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_node_without_rights_is_told(tmp_path: Path) -> None:
    (board(tmp_path) / "dev/nvmap").chmod(0)

    assert Look("/dev/nvmap", errno.EACCES) in look(tmp_path)


@pytest.mark.parametrize(
    ("path", "inside", "directive"),
    [
        ("/dev/nvhost-vic", errno.EPERM, "DeviceAllow=/dev/nvhost-vic rw"),
        ("/dev/null", errno.EACCES, "SupplementaryGroups=root"),
        ("/dev/nowhere", errno.EACCES, "SupplementaryGroups=(the group of /dev/nowhere)"),
        ("/dev/nvmap", None, "PrivateDevices=no"),
        ("/tmp/argus_socket", None, "PrivateTmp=no"),
        ("/proc/meminfo", None, "ProcSubset=all"),
        (
            "/sys/devices/system/cpu/online",
            None,
            "BindReadOnlyPaths=/sys/devices/system/cpu/online",
        ),
        ("/var/lib/edgetrt", errno.EROFS, "ReadWritePaths=/var/lib/edgetrt"),
    ],
)
def test_each_refusal_names_the_line_to_relax(
    path: str, inside: int | None, directive: str
) -> None:
    seen = [] if inside is None else [Look(path, inside)]

    (finding,) = judge([Look(path, 0)], seen)

    assert finding.state == "problem"
    assert finding.fix.endswith(f"[Service]: {directive}")


def test_what_opens_is_fine_and_what_root_cannot_open_is_no_sandboxs_fault() -> None:
    fine, broken = judge(
        [Look("/dev/nvmap", 0), Look("/dev/video0", errno.EIO)],
        [Look("/dev/nvmap", 0), Look("/dev/video0", errno.EIO)],
    )

    assert (fine.state, fine.fix) == ("ok", "")
    assert (broken.state, broken.fix) == ("problem", "")
    assert "not even root" in broken.value


def test_the_sandbox_is_taken_from_the_unit_with_its_drop_ins() -> None:
    text = (
        "# /lib/systemd/system/edgetrt-runtime.service\n"
        "[Unit]\nAfter=network.target\n\n"
        "[Service]\nType=notify\nExecStart=/usr/bin/edgetrt runtime\nUser=edgetrt\n"
        "# why\nDeviceAllow=char-drm rw\nWatchdogSec=30\n[Install]\nWantedBy=edgetrt.target\n"
        "# /etc/systemd/system/edgetrt-runtime.service.d/x.conf\n[Service]\nPrivateTmp=no\n"
    )

    assert properties(text) == ["User=edgetrt", "DeviceAllow=char-drm rw", "PrivateTmp=no"]


@pytest.mark.parametrize(
    ("source", "lines", "state", "value"),
    [
        ("synthetic:64x64", ["PrivateNetwork=yes"], "ok", "shut"),
        ("rtsp://cam/s", ["PrivateNetwork=yes", "PrivateNetwork=no"], "ok", "open"),
        ("synthetic:64x64", ["PrivateNetwork=no"], "ok", "open without need"),
        ("rtsp://cam/s", ["PrivateNetwork=no", "PrivateNetwork=yes"], "problem", "shut, and"),
    ],
)
def test_a_stream_behind_a_shut_network_is_told(
    source: str, lines: list[str], state: str, value: str
) -> None:
    found = reach([source], ["User=edgetrt", *lines])

    assert found.state == state
    assert found.value.startswith(value)
    assert found.fix == (MEND if state == "problem" else "")
