"""Which Jetson this is, from the files that the kernel and Jetson Linux keep; no tool is started.

Part numbers, compute capabilities and the order of look-up follow jetson-stats' tables
(https://github.com/rbonghi/jetson_stats/blob/master/jtop/core/jetson_variables.py) and NVIDIA's
detection script (https://github.com/NVIDIA/skills, jetson-diagnostic).
"""

from __future__ import annotations

import re
from pathlib import Path

from edgetrt.boards.generic import memory_bytes, read_text
from edgetrt.types import DeviceIdentity

COMPUTE_CAPABILITY = {
    "tegra210": "5.3",
    "tegra186": "6.2",
    "tegra194": "7.2",
    "tegra234": "8.7",
    "tegra264": "11.0",
}
_MODULE = re.compile(r"p(?:2888|3310|3448|3489|3668|3701|3767|3834)-\d{4}")
_SOC = re.compile(r"^nvidia,(tegra\d+)$")
_L4T = re.compile(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")


def identify(root: Path = Path("/")) -> DeviceIdentity | None:
    """Read what board this is; None when it is not a Jetson.

    Args:
        root: where `/proc` and `/etc` are looked for.
    """
    compatible = _strings(root / "proc/device-tree/compatible")
    soc = next((found[1] for name in compatible if (found := _SOC.match(name))), None)
    if soc is None:
        return None
    model = _strings(root / "proc/device-tree/model")
    return DeviceIdentity(
        model=model[0] if model else f"Jetson ({soc})",
        part_number=_part_number(compatible),
        soc=soc,
        compute_capability=COMPUTE_CAPABILITY.get(soc),
        l4t=_l4t(root),
        memory_bytes=memory_bytes(root),
    )


def _part_number(compatible: list[str]) -> str | None:
    """`nvidia,p3768-0000+p3767-0003` -> `p3767-0003`: the module, not the carrier board."""
    found = (match for name in compatible for match in _MODULE.findall(name))
    return next(found, None)


def _l4t(root: Path) -> str | None:
    """`# R36 (release), REVISION: 4.3, …` -> `36.4.3`."""
    found = _L4T.search(read_text(root / "etc/nv_tegra_release") or "")
    return f"{found[1]}.{found[2]}" if found else None


def _strings(path: Path) -> list[str]:
    """Device-tree property: strings that each end with a NUL byte."""
    return [part for part in (read_text(path) or "").split("\0") if part]
