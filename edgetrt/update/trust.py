"""Whether a file is the one that the release keys signed: TUF, by its reference client.

What the client trusts lives in one folder per refresh, and a link names the one that counts: a power
cut in the middle leaves the metadata from before, and with it the memory of the versions seen.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, TargetFile, Timestamp
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from edgetrt import __version__
from edgetrt.errors import EdgetrtError, TrustError, UnreachableError, UpdateError
from edgetrt.update import durable
from edgetrt.update.clock import Bound, WallClock
from edgetrt.update.desired import (
    KEYS_TARGET,
    AssignmentKeys,
    Desired,
    assignment_keys,
    verify,
)
from edgetrt.update.fetch import Wanted
from edgetrt.update.origin import Origin
from edgetrt.update.ports import Trusted

SIGNED_AT = "x-edgetrt-signed-at"
"""Field of our repositories' timestamp: a time that has certainly passed."""

_MOST_AHEAD = timedelta(days=1)
"""By how much a repository may be ahead of a clock that is set."""

_BASE = "origin:/"


class OriginFetcher(FetcherInterface):
    """Lets TUF's client read from one of our origins."""

    def __init__(self, origin: Origin, base: str = _BASE) -> None:
        self._origin, self._base = origin, base

    def _fetch(self, url: str) -> Iterator[bytes]:
        with self._origin.get(url.removeprefix(self._base)) as reply:
            if reply.status != 200:
                raise tuf_errors.DownloadHTTPError(f"HTTP {reply.status}: {url}", reply.status)
            yield from reply.chunks

    def fetch(self, url: str) -> Iterator[bytes]:
        """As the base class's, for a generator: what fails later is mapped as well."""
        try:
            yield from self._fetch(url)
        except UnreachableError as error:
            raise tuf_errors.DownloadError(f"{url}: {error}") from error


class Trust:
    """The metadata of one repository.

    Args:
        folder: for what is trusted; ours alone.
        root: the first root metadata, as it was brought to the device with edgetrt.
        clock: against which expiry is judged.
    """

    def __init__(self, folder: Path, root: bytes, clock: WallClock) -> None:
        self._folder, self._root, self._clock = folder, root, clock
        self._bound = Bound(folder / "clock")
        self._session: VerifiedMetadata | None = None

    def refresh(self, metadata: Origin, targets: Origin) -> VerifiedMetadata:
        """As `Trusting.refresh`."""
        self._session = None
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        now = self._bound.check(self._clock)
        with self._changing() as folder, mapped(metadata.name):
            updater = _updater(folder, self._root, OriginFetcher(metadata))
            updater.refresh()
            keys = _keys(updater, folder, OriginFetcher(targets))
        self._bound.raise_to(now, *self._signed_at(now))
        self._session = VerifiedMetadata(updater, keys)
        return self._session

    def signed(self, envelope: bytes, device: str) -> Desired:
        """As `Trusting.signed`."""
        keys = self.keys()
        if keys is None:
            raise TrustError("desired: no assignment key is known yet", "", "signature")
        return verify(envelope, keys, device, self.now())

    def target(self, path: str) -> Trusted:
        """As `Trusting.target`."""
        if self._session is None:
            raise UnreachableError(
                f"{path}: the metadata was not looked at", "It is tried again.", "unreachable"
            )
        return self._session.target(path)

    def rest(self, idle_s: float) -> None:
        """As `Trusting.rest`; in a process that lives for this alone, nothing has to go."""

    def keys(self) -> AssignmentKeys | None:
        """Whose assignments counted at the last refresh; None when there was none yet."""
        try:
            return assignment_keys((self._folder / "current" / "keys.json").read_bytes())
        except (OSError, TrustError):
            return None

    def now(self) -> datetime:
        """The time, when it can be trusted; raises as `refresh` does."""
        return self._bound.check(self._clock)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Path]:
        """A twin of what is trusted; kept even when the attempt fails, as TUF wants it, but whole.

        Both share their files: the client never writes into one, it puts another in its place.
        """
        link = self._folder / "current"
        old = self._folder / link.readlink().name if link.exists() else None
        number = 1 + int(old.name) if old else 1
        for stale in self._folder.glob("[0-9]*"):
            if stale != old:
                durable.remove(stale)
        durable.sweep(self._folder)
        new = self._folder / str(number)
        if old is None:
            new.mkdir(mode=0o700)
        else:
            shutil.copytree(old, new, symlinks=True, copy_function=os.link)
        try:
            yield new
        finally:
            if old is None or _content(new) != _content(old):
                durable.flush_tree(new)
                durable.link(link, new.name)
                if old is not None:
                    durable.remove(old)

    def _signed_at(self, now: datetime) -> list[datetime]:
        """When the repository says that it signed; our own clock must agree that it still holds."""
        path = self._folder / "current" / "timestamp.json"
        signed = Metadata[Timestamp].from_bytes(path.read_bytes()).signed
        if signed.is_expired(now):
            raise _refused(
                str(path), ValueError(f"expired {signed.expires}, it is {now}"), "expired"
            )
        told = signed_at(signed)
        if told is None:
            return []
        if told > now + _MOST_AHEAD:  # kept, it would hold updates back until that day
            raise UnreachableError(
                f"{path}: signed at {told:%Y-%m-%d %H:%M} UTC, but it is {now:%Y-%m-%d %H:%M} UTC here;"
                " updates wait",
                "Look at the clock of whoever publishes, set it and publish again;"
                " or at this device's clock.",
                "clock",
            )
        return [told]


class VerifiedMetadata:
    """Verified metadata, for as long as one update looks at it."""

    def __init__(self, updater: Updater, keys: AssignmentKeys) -> None:
        self._updater = updater
        self.keys = keys

    def target(self, path: str) -> Trusted:
        """What the release keys say of a target.

        Raises:
            TrustError: they know none of that path.
        """
        with mapped(path):
            found = self._updater.get_targetinfo(path)
        if found is None:
            raise TrustError(
                f"{path}: no such release is signed", "Publish it first.", "unknown-target"
            )
        return Trusted(_wanted(found), found.custom or {})


@contextlib.contextmanager
def mapped(where: str) -> Iterator[None]:
    """Turn TUF's errors into ours."""
    try:
        yield
    except tuf_errors.DownloadLengthMismatchError as error:
        raise _refused(where, error, "length") from error
    except tuf_errors.DownloadError as error:
        cause = error.__cause__
        if isinstance(cause, EdgetrtError):
            raise cause from None
        status = getattr(error, "status_code", 0)
        text = f"{where}: metadata cannot be fetched: {error}"
        if 400 <= status < 500:
            raise UpdateError(text, "Look at the repository's address.", "not-found") from error
        raise UnreachableError(text, "It is tried again.", "unreachable") from error
    except tuf_errors.ExpiredMetadataError as error:
        raise _refused(where, error, "expired") from error
    except tuf_errors.BadVersionNumberError as error:
        raise _refused(where, error, "rollback") from error
    except tuf_errors.UnsignedMetadataError as error:
        raise _refused(where, error, "signature") from error
    except tuf_errors.LengthOrHashMismatchError as error:
        raise _refused(where, error, "mix-and-match") from error
    except tuf_errors.RepositoryError as error:
        raise _refused(where, error, "metadata") from error


def signed_at(timestamp: Timestamp) -> datetime | None:
    """When a timestamp was signed by its signer's clock; None when it does not say."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        told = datetime.fromisoformat(str(timestamp.unrecognized_fields[SIGNED_AT]))
        return told.astimezone(timezone.utc)
    return None


def stored_path(target: TargetFile) -> str:
    """Where a repository with consistent snapshots keeps a target."""
    folder, slash, name = target.path.rpartition("/")
    return f"{folder}{slash}{target.hashes['sha256']}.{name}"


def _updater(folder: Path, root: bytes, fetcher: FetcherInterface) -> Updater:
    config = UpdaterConfig(app_user_agent=f"edgetrt/{__version__}")
    return Updater(str(folder), _BASE, fetcher=fetcher, config=config, bootstrap=root)


def _wanted(target: TargetFile) -> Wanted:
    sha256 = target.hashes.get("sha256")
    if sha256 is None:
        raise TrustError(f"{target.path}: signed without a sha256", "Add it again.", "metadata")
    return Wanted(stored_path(target), sha256, target.length)


def _keys(updater: Updater, folder: Path, fetcher: FetcherInterface) -> AssignmentKeys:
    """The assignment keys, verified as every target is; a copy of them is kept."""
    target = updater.get_targetinfo(KEYS_TARGET)
    if target is None:
        raise TrustError(
            f"{KEYS_TARGET}: no such target", "Make the repository with `edgetrt release init`."
        )
    kept = folder / "keys.json"
    with contextlib.suppress(OSError, tuf_errors.LengthOrHashMismatchError):
        data = kept.read_bytes()
        target.verify_length_and_hashes(data)
        return assignment_keys(data)
    data = fetcher.download_bytes(f"{_BASE}{stored_path(target)}", target.length)
    target.verify_length_and_hashes(data)
    kept.unlink(missing_ok=True)
    kept.write_bytes(data)
    return assignment_keys(data)


def _content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _refused(where: str, error: Exception, code: str) -> TrustError:
    hints = {
        "expired": "Publish again, so that the metadata is fresh; then check the device's clock.",
        "rollback": "This server shows an older state than was seen before: look who serves it.",
    }
    hint = hints.get(code, "Nothing was installed. Look at who can write to the repository.")
    return TrustError(f"{where}: {error}", hint, code)
