"""A bundle: one release with all that proves it, as a file to carry where no network is."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from edgetrt.errors import ConfigError, TrustError
from edgetrt.update import desired as assignments
from edgetrt.update.desired import KEYS_TARGET
from edgetrt.update.origin import bundle_files
from edgetrt.update.record import Offer
from edgetrt.update.repository import Repository
from edgetrt.update.trust import stored_path


def write(repository: Repository, target: str, envelopes: Iterable[bytes], to: Path) -> None:
    """Make a bundle of a published release and of the assignments for the devices it goes to.

    Raises:
        ConfigError: there is no such target.
    """
    targets = repository.load("targets").signed.targets
    if target not in targets:
        raise ConfigError(f"{target}: no such target", "See `edgetrt release show`.")
    files = {f"metadata/{path.name}": path for path in _metadata(repository)}
    for name in (KEYS_TARGET, target):
        stored = stored_path(targets[name])
        files[f"targets/{stored}"] = repository.targets / stored
    with tarfile.open(to, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for envelope in envelopes:
            name = f"desired/{assignments.peek(envelope).device}.json"
            _add(tar, name, len(envelope), io.BytesIO(envelope))
        for name, path in files.items():
            with path.open("rb") as file:
                _add(tar, name, path.stat().st_size, file)


def offer(path: Path, device: str) -> Offer:
    """The assignment of a device in a bundle; nothing of it has been checked.

    Raises:
        TrustError: the bundle holds none for this device.
        UpdateError: it is no bundle.
    """
    held = bundle_files(path, "desired")
    found = held.get(f"{device}.json")
    if found is None:
        names = ", ".join(name.removesuffix(".json") for name in sorted(held)) or "no device"
        raise TrustError(
            f"{path}: for {names}, this is {device!r}",
            "Make one for this device: `edgetrt release assign`, then `edgetrt release bundle`.",
            "foreign",
        )
    return Offer(envelope=found.decode("utf-8", "replace"), bundle=str(path.resolve()))


def _metadata(repository: Repository) -> list[Path]:
    newest = [repository.load(role).signed.version for role in ("snapshot", "targets")]
    return [
        *sorted(repository.metadata.glob("*.root.json")),
        repository.metadata / "timestamp.json",
        repository.metadata / f"{newest[0]}.snapshot.json",
        repository.metadata / f"{newest[1]}.targets.json",
    ]


def _add(tar: tarfile.TarFile, name: str, size: int, file: io.BufferedReader | io.BytesIO) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    tar.addfile(member, file)
