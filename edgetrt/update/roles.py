"""Who signs what in a repository, how many must, and for how long their word is good."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Role

from edgetrt.errors import ConfigError, TrustError

DAYS = {"root": 365, "targets": 365, "snapshot": 7, "timestamp": 7}
"""How long each role's word is good; the last two are renewed by `publish` from a timer."""

_MOST_BACK, _MOST_SINCE = timedelta(days=1), timedelta(days=30)
"""Between two publications, before a wrong clock is likelier: devices believe what is signed."""

OFFLINE, ONLINE = ("root", "targets"), ("snapshot", "timestamp")
ASSIGNMENT = "assignment"


@dataclass(frozen=True)
class State:
    """How far a staged role is."""

    role: str
    version: int
    signed: int
    threshold: int
    missing: tuple[str, ...]


def meta(metadata: Metadata[Any]) -> MetaFile:
    """How other metadata names this one."""
    data = metadata.to_bytes()
    return MetaFile(
        metadata.signed.version, len(data), {"sha256": hashlib.sha256(data).hexdigest()}
    )


def demand(state: State) -> None:
    """Raise TrustError when a staged role lacks signatures."""
    if state.missing:
        raise TrustError(
            f"{state.role} version {state.version}: {state.signed} of {state.threshold} signatures",
            f"Sign it with: {', '.join(keyid[:12] for keyid in state.missing)}.",
            "threshold",
        )


def sign(role: str, metadata: Metadata[Any], wanted: Role, signers: Mapping[str, Signer]) -> None:
    """Sign an online role with the keys that count for it; raises TrustError when they are missing."""
    for keyid in wanted.keyids:
        if keyid in signers:
            metadata.sign(signers[keyid], append=True)
    if len(metadata.signatures) < wanted.threshold:
        raise TrustError(
            f"{role}: {len(metadata.signatures)} of {wanted.threshold} signatures",
            "Give the folder with the online keys: --keys.",
            "threshold",
        )


def demand_clock(last: datetime) -> None:
    """Raise TrustError when this machine's clock is far from the last publication."""
    if not last - _MOST_BACK <= now() <= last + _MOST_SINCE:
        raise TrustError(
            f"clock: it is {now():%Y-%m-%d %H:%M} UTC here, and the last publication was signed at"
            f" {last:%Y-%m-%d %H:%M} UTC",
            "Set the clock; where it is right, publish with --trust-clock.",
            "clock",
        )


def threshold(role: str, thresholds: Mapping[str, int], keyids: list[str]) -> int:
    """How many of a role's keys must sign; raises ConfigError when there are fewer."""
    wanted = thresholds.get(role, 1)
    if not 1 <= wanted <= len(keyids):
        raise ConfigError(
            f"{role}: {wanted} of {len(keyids)} keys must sign", "Add keys, or lower the threshold."
        )
    return wanted


def find(prefix: str, keyids: list[str]) -> str:
    """The one key id that begins so; raises ConfigError."""
    found = [keyid for keyid in keyids if keyid.startswith(prefix)]
    if len(found) != 1:
        raise ConfigError(
            f"{prefix}: {len(found)} keys of this role begin so",
            f"Its keys: {', '.join(keyid[:12] for keyid in keyids)}.",
        )
    return found[0]


def number(path: Path) -> int:
    """The version in a file name."""
    return int(path.name.partition(".")[0])


def now() -> datetime:
    """To the second, UTC."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def expiry(role: str) -> datetime:
    """When metadata of a role that is made now expires."""
    return now() + timedelta(days=DAYS[role])
