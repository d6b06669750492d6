"""Releases on the device's disk: a folder each, named by digest, and one link to the one that serves."""

from __future__ import annotations

import contextlib
from pathlib import Path

from edgetrt.errors import UpdateError
from edgetrt.update import archive, durable, fetch
from edgetrt.update.release import Release

_LEFT_S = 600.0
"""Half a file that is so old is nobody's: a power cut left it."""


class Layout:
    """The folder of updates.

    Args:
        root: ours alone; made when it is missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.downloads, self.trust = root / "downloads", root / "trust"
        self._releases, self._current = root / "releases", root / "current"
        durable.own_folder(root)
        self._releases.mkdir(exist_ok=True, mode=0o700)

    def release(self, digest: str) -> Path:
        """Where a release is, or will be."""
        return self._releases / digest

    def has(self, digest: str) -> bool:
        """Whether it is there; what is there is whole, since it was renamed when it was."""
        return bool(digest) and self.release(digest).is_dir()

    def current(self) -> str:
        """Digest of the release that serves; empty when none does."""
        with contextlib.suppress(OSError):
            return self._current.readlink().name
        return ""

    def stage(self, archived: Path, digest: str) -> Release:
        """Unpack a release to its place.

        Raises:
            DigestError: it is not what its digest promises.
        """
        if self.has(digest):
            return archive.read(self.release(digest))
        beside = self._releases / f".new-{digest}"
        durable.remove(beside)
        release = archive.unpack(archived, digest, beside)
        beside.replace(self.release(digest))
        durable.flush(self._releases)
        return release

    def switch(self, digest: str) -> None:
        """Let `current` lead to a release, in one step; empty = to none.

        Raises:
            UpdateError: that release is not here.
        """
        if digest == self.current():
            return
        if digest and not self.has(digest):
            raise UpdateError(
                f"release {digest[:12]}: is not on this device any more", "Assign it again.", "gone"
            )
        if digest:
            durable.link(self._current, f"releases/{digest}")
        else:
            self._current.unlink(missing_ok=True)
            durable.flush(self.root)

    def prune(self, *keep: str) -> None:
        """Remove every release but those and the one that serves, and what was downloaded besides.

        What cannot be removed now is left for the next time: it takes room and does no harm.
        """
        with contextlib.suppress(OSError):
            fetch.forget(self.downloads, *keep)
        for folder in (self.root, self.root / "built"):
            with contextlib.suppress(OSError):
                durable.sweep(folder, older_s=_LEFT_S)
        for path in self._releases.iterdir():
            if path.name not in keep and path.name != self.current():
                with contextlib.suppress(OSError):
                    durable.remove(path)
