"""The release repository: a tree of files for any web server, and what its keepers do to it.

`public/` is served: `metadata/` and `targets/` as TUF lays them out, with consistent snapshots.
`staged/` holds metadata that still lacks signatures; it can be carried to where the keys are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    Metadata,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edgetrt.errors import ConfigError
from edgetrt.update import archive, durable, release, roles
from edgetrt.update.desired import KEYS_TARGET, AssignmentKeys
from edgetrt.update.trust import SIGNED_AT, signed_at, stored_path

_PUBLISHED = ("targets", "snapshot", "root", "timestamp")
"""In which order: what others name lies there before they do, and the timestamp tells of it all."""


class Repository:
    """One repository.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata, self.targets = folder / "public/metadata", folder / "public/targets"
        self._staged = folder / "staged"

    @classmethod
    def create(
        cls, folder: Path, keys: Mapping[str, Iterable[Key]], thresholds: Mapping[str, int]
    ) -> Repository:
        """Make an empty one; everything is staged, to be signed and published.

        Raises:
            ConfigError: there is one already, or fewer keys than must sign.
        """
        new = cls(folder)
        if new.metadata.exists():
            raise ConfigError(f"{folder}: there is a repository already", "Choose another folder.")
        root = Root(consistent_snapshot=True, expires=roles.expiry("root"))
        for role in (*roles.OFFLINE, *roles.ONLINE):
            for key in keys[role]:
                root.add_key(key, role)
            root.roles[role].threshold = roles.threshold(role, thresholds, root.roles[role].keyids)
        for path in (new.metadata, new.targets / "releases", new.targets / "keys", new._staged):
            path.mkdir(parents=True)
        new._stage("root", Metadata(root))
        targets: Metadata[Targets] = Metadata(Targets(expires=roles.expiry("targets")))
        new._add_keys(targets, {key.keyid: key for key in keys[roles.ASSIGNMENT]}, thresholds)
        new._stage("targets", targets)
        return new

    def add(self, path: Path) -> str:
        """Pack a release from its `release.yaml` and stage the metadata that names it.

        Returns:
            Its target path.

        Raises:
            ConfigError: a file is wrong, or the version exists with another content.
        """
        plan = archive.plan(path)
        name = f"releases/{plan.name}-{plan.version}.tar"
        targets = self._edit("targets", Targets)
        with tempfile.NamedTemporaryFile(dir=self.targets / "releases", delete=False) as file:
            archive.pack(path.parent, plan, file)
        packed = Path(file.name)
        packed.chmod(0o644)
        target = TargetFile.from_file(name, str(packed), ["sha256"])
        known = targets.signed.targets.get(name)
        if known is not None and known.hashes != target.hashes:
            packed.unlink()
            raise ConfigError(
                f"{name}: published with another content",
                "A version names one content for ever: raise the version in release.yaml.",
            )
        about = msgspec.to_builtins(release.summary(plan))
        target.unrecognized_fields["custom"] = {release.CUSTOM: about}
        self._put(packed, target)
        targets.signed.targets[name] = target
        self._stage("targets", targets)
        return name

    def withdraw(self, name: str) -> None:
        """Stage metadata without a target: from its publication on nobody installs it any more.

        Raises:
            ConfigError: there is no such target.
        """
        targets = self._edit("targets", Targets)
        if targets.signed.targets.pop(name, None) is None:
            raise ConfigError(f"{name}: no such target", "See `edgetrt release show`.")
        self._stage("targets", targets)

    def rotate(
        self, role: str, add: Iterable[Key], remove: Iterable[str], threshold: int | None = None
    ) -> None:
        """Stage other keys for a role; `remove` takes key ids or their beginnings.

        With other keys for targets that role is staged as well: what the old ones signed would not hold.

        Raises:
            ConfigError: no such key, or fewer keys than must sign.
        """
        if role == roles.ASSIGNMENT:
            self._rotate_assignment(add, remove, threshold)
            return
        root = self._edit("root", Root)
        if role not in root.signed.roles:
            raise ConfigError(
                f"{role}: no such role", f"One of {', '.join(roles.DAYS)}, {roles.ASSIGNMENT}."
            )
        for prefix in remove:
            root.signed.revoke_key(roles.find(prefix, root.signed.roles[role].keyids), role)
        for key in add:
            root.signed.add_key(key, role)
        have = root.signed.roles[role]
        have.threshold = roles.threshold(role, {role: threshold or have.threshold}, have.keyids)
        self._stage("root", root)
        if role == "targets":
            self._stage("targets", self._edit("targets", Targets))

    def sign(
        self, signers: Iterable[Signer], wanted: Iterable[str] = roles.OFFLINE
    ) -> list[roles.State]:
        """Add signatures to what is staged, wherever a key counts.

        Returns:
            How far each staged role is now.
        """
        signers = list(signers)
        for role in wanted:
            staged = self._staged_role(role)
            if staged is None:
                continue
            counted = set(self._keyids(role))
            for signer in signers:
                if signer.public_key.keyid in counted:
                    staged.sign(signer, append=True)
            self._write(self._staged / f"{role}.json", staged)
        return self.staged()

    def staged(self) -> list[roles.State]:
        """What waits for signatures or for publication."""
        found = ((role, self._staged_role(role)) for role in roles.OFFLINE)
        return [self._state(role, staged) for role, staged in found if staged is not None]

    def publish(self, signers: Mapping[str, Signer], trust_clock: bool = False) -> dict[str, int]:
        """Bring what is staged and signed before the public, and renew the online roles.

        Args:
            signers: keys of snapshot and timestamp, by key id.
            trust_clock: a person says that this machine's clock is right, however long ago that was.

        Returns:
            The version of each role now.

        Raises:
            TrustError: signatures or online keys are missing, or the clock must be wrong; then
                nothing staged is published. What is public is renewed while signatures are awaited.
        """
        if not trust_clock:
            self._demand_clock()
        waiting = [state for state in self.staged() if state.missing]
        if waiting and not (self.metadata / "timestamp.json").exists():
            roles.demand(waiting[0])
        new = {
            role: (None if waiting else self._staged_role(role)) or self.load(role)
            for role in roles.OFFLINE
        }
        new |= self._online(new, signers)
        for role in _PUBLISHED:
            self._write(self.metadata / _name(role, new[role].signed.version), new[role])
        for state in waiting:
            roles.demand(state)
        for role in roles.OFFLINE:
            (self._staged / f"{role}.json").unlink(missing_ok=True)
        return {role: metadata.signed.version for role, metadata in new.items()}

    def _demand_clock(self) -> None:
        with contextlib.suppress(ConfigError):
            last = signed_at(self.load("timestamp").signed)
            if last is not None:
                roles.demand_clock(last)

    def _online(
        self, offline: Mapping[str, Metadata[Any]], signers: Mapping[str, Signer]
    ) -> dict[str, Metadata[Any]]:
        """Fresh and signed snapshot and timestamp of these; nothing is written."""
        wanted = offline["root"].signed.roles
        snapshot = self._renewed("snapshot", Snapshot)
        snapshot.signed.meta["targets.json"] = roles.meta(offline["targets"])
        roles.sign("snapshot", snapshot, wanted["snapshot"], signers)
        timestamp = self._renewed("timestamp", Timestamp)
        timestamp.signed.snapshot_meta = roles.meta(snapshot)
        timestamp.signed.unrecognized_fields[SIGNED_AT] = roles.now().isoformat()
        roles.sign("timestamp", timestamp, wanted["timestamp"], signers)
        return {"snapshot": snapshot, "timestamp": timestamp}

    def load(self, role: str) -> Metadata[Any]:
        """The published metadata of a role: the newest root, and what the timestamp leads to.

        Raises:
            ConfigError: nothing was published.
        """
        try:
            return Metadata.from_bytes((self.metadata / self._published(role)).read_bytes())
        except (ValueError, OSError, RepositoryError) as error:
            raise ConfigError(
                f"{self.folder}: no published {role}",
                "Make one with `edgetrt release init`, sign and publish it.",
            ) from error

    def _published(self, role: str) -> str:
        """The name of a role's file; a newer one that no timestamp leads to was never public."""
        if role == "root":
            return _name(role, max(roles.number(one) for one in self.metadata.glob("*.root.json")))
        if role == "snapshot":
            return _name(role, self.load("timestamp").signed.snapshot_meta.version)
        if role == "targets":
            return _name(role, self.load("snapshot").signed.meta["targets.json"].version)
        return _name(role)

    def first_root(self) -> bytes:
        """The first root metadata, which devices are given."""
        return (self.metadata / "1.root.json").read_bytes()

    def _edit(self, role: str, kind: type[Any]) -> Metadata[Any]:
        """The staged version of a role, or the one after the published."""
        staged = self._staged_role(role)
        if staged is not None:
            staged.signatures.clear()
            return staged
        return self._renewed(role, kind)

    def _renewed(self, role: str, kind: type[Any]) -> Metadata[Any]:
        try:
            known = self.load(role)
        except ConfigError:
            return Metadata(kind(expires=roles.expiry(role)))
        known.signed.version += 1
        known.signed.expires = roles.expiry(role)
        known.signatures.clear()
        return known

    def _state(self, role: str, staged: Metadata[Any]) -> roles.State:
        data, signed, threshold, missing = staged.signed_bytes, 0, 0, set[str]()
        for root in self._roots(role):
            result = root.get_verification_result(role, data, staged.signatures)
            signed, threshold = len(result.signed), max(threshold, result.threshold)
            missing |= set() if result.verified else set(result.unsigned)
        return roles.State(role, staged.signed.version, signed, threshold, tuple(sorted(missing)))

    def _roots(self, role: str) -> list[Root]:
        """Who must agree: for a root both the one before and itself."""
        staged = self._staged_role("root")
        roots = [] if staged is None else [staged.signed]
        if role == "root" or staged is None:
            with contextlib.suppress(ConfigError):
                roots.insert(0, self.load("root").signed)
        return roots

    def _keyids(self, role: str) -> list[str]:
        return [keyid for root in self._roots(role) for keyid in root.roles[role].keyids]

    def _staged_role(self, role: str) -> Metadata[Any] | None:
        """What is staged; what is public already lies there only when a publication was cut short."""
        path = self._staged / f"{role}.json"
        if not path.exists():
            return None
        staged: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
        with contextlib.suppress(ConfigError):
            return staged if staged.signed.version > self.load(role).signed.version else None
        return staged

    def _stage(self, role: str, metadata: Metadata[Any]) -> None:
        metadata.signatures.clear()
        self._write(self._staged / f"{role}.json", metadata)

    def _write(self, path: Path, metadata: Metadata[Any]) -> None:
        durable.replace(path, metadata.to_bytes(), mode=0o644)

    def _put(self, path: Path, target: TargetFile) -> None:
        to = self.targets / stored_path(target)
        durable.flush_file(path)
        path.replace(to)
        durable.flush(to.parent)

    def _rotate_assignment(
        self, add: Iterable[Key], remove: Iterable[str], threshold: int | None
    ) -> None:
        targets = self._edit("targets", Targets)
        known = targets.signed.targets[KEYS_TARGET]
        old = msgspec.json.decode(
            (self.targets / stored_path(known)).read_bytes(), type=AssignmentKeys
        )
        keys = {keyid: Key.from_dict(keyid, dict(key)) for keyid, key in old.keys.items()}
        for prefix in remove:
            del keys[roles.find(prefix, list(keys))]
        keys |= {key.keyid: key for key in add}
        self._add_keys(targets, keys, {roles.ASSIGNMENT: threshold or old.threshold})
        self._stage("targets", targets)

    def _add_keys(
        self, targets: Metadata[Targets], keys: Mapping[str, Key], thresholds: Mapping[str, int]
    ) -> None:
        """Make the assignment keys a target like any other."""
        threshold = roles.threshold(roles.ASSIGNMENT, thresholds, list(keys))
        public = {keyid: key.to_dict() for keyid, key in keys.items()}
        told = {"v": 1, "threshold": threshold, "keys": public}
        data = json.dumps(told, sort_keys=True).encode()
        target = TargetFile(len(data), {"sha256": hashlib.sha256(data).hexdigest()}, KEYS_TARGET)
        durable.replace(self.targets / stored_path(target), data, mode=0o644)
        targets.signed.targets[KEYS_TARGET] = target


def _name(role: str, version: int = 0) -> str:
    return "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"
